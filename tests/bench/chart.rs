//! A chart with logarithmic axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

// Of Okabe and Ito, told apart by everybody.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// What is drawn.
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below it.
    pub across: String,
    /// Each with its name and its points; all numbers are above 0.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Chart {
    /// The chart as a group of elements, to be put somewhere in a drawing of [`drawing`].
    fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let (x, y) = (Axis::over(points().map(|point| point.0)), Axis::over(points().map(|point| point.1)));
        let (across, up) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let at = |(a, b): (f64, f64)| (LEFT + x.place(a) * across, HEIGHT - BOTTOM - y.place(b) * up);
        let mut svg = String::new();
        text(&mut svg, (LEFT, 20.0), "start", &format!("<tspan font-weight=\"bold\">{}</tspan>", self.title));
        text(&mut svg, (LEFT + across / 2.0, HEIGHT - 10.0), "middle", &self.across);
        text(&mut svg, (LEFT - 8.0, TOP - 8.0), "end", "seconds");
        for power in x.powers() {
            let (at_x, _) = at((power, y.least()));
            stroke(&mut svg, &[(at_x, TOP), (at_x, HEIGHT - BOTTOM)], "#ddd", 1);
            text(&mut svg, (at_x, HEIGHT - BOTTOM + 18.0), "middle", &crate::grouped(power as u64));
        }
        for power in y.powers() {
            let (_, at_y) = at((x.least(), power));
            stroke(&mut svg, &[(LEFT, at_y), (LEFT + across, at_y)], "#ddd", 1);
            text(&mut svg, (LEFT - 8.0, at_y + 4.0), "end", &power.to_string());
        }
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let places: Vec<_> = points.iter().map(|point| at(*point)).collect();
            stroke(&mut svg, &places, colour, 2);
            for (x, y) in &places {
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>").expect("memory");
            }
            let key = TOP + 10.0 + number as f64 * 22.0;
            stroke(&mut svg, &[(WIDTH - RIGHT + 12.0, key), (WIDTH - RIGHT + 36.0, key)], colour, 3);
            text(&mut svg, (WIDTH - RIGHT + 42.0, key + 4.0), "start", name);
        }
        svg
    }
}

/// Charts one below the other.
pub fn drawing(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, chart) in charts.iter().enumerate() {
        let down = HEIGHT * number as f64;
        writeln!(svg, "<g transform=\"translate(0 {down})\">\n{}</g>", chart.draw()).expect("memory");
    }
    svg + "</svg>\n"
}

/// Whole powers of ten around some numbers.
struct Axis {
    from: i32,
    until: i32,
}

impl Axis {
    fn over(numbers: impl Iterator<Item = f64> + Clone) -> Axis {
        let least = numbers.clone().fold(f64::INFINITY, f64::min).log10().floor() as i32;
        let most = numbers.fold(f64::NEG_INFINITY, f64::max).log10().ceil() as i32;
        Axis { from: least, until: most.max(least + 1) }
    }

    fn least(&self) -> f64 {
        10_f64.powi(self.from)
    }

    fn place(&self, number: f64) -> f64 {
        (number.log10() - f64::from(self.from)) / f64::from(self.until - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.until).map(|power| 10_f64.powi(power))
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>").expect("memory");
}

fn stroke(svg: &mut String, points: &[(f64, f64)], colour: &str, width: u32) {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let (points, style) = (points.join(" "), format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\""));
    writeln!(svg, "<polyline points=\"{points}\" {style}/>").expect("memory");
}
