//! What differs in a directory, told by places, held against the names that are current there. Pure.

use crate::entry::{Differences, Entry};
use crate::path::Name;

/// The numbers of those among the current versions, sorted by name, that are gone or replaced; `None` when names would
/// not ascend with the `added` entries at their places. The differences fit each other and these lists.
pub fn gone(current: &[(Name, i64)], differences: &Differences, added: &[Entry]) -> Option<Vec<i64>> {
    let current = current.iter().map(|(name, id)| (name, Some(*id)));
    let (now, gone) = differences.apply(current, added.iter().map(|entry| (&entry.name, None)));
    let ascends = now.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ascends.then(|| gone.into_iter().filter_map(|(_, id)| id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, testing};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn entry(text: &str) -> Entry {
        Entry { kind: Kind::Fifo, ..testing::file(text) }
    }

    #[test]
    fn only_what_leaves_names_in_order_is_believed() {
        let current: Vec<_> = ["b", "d", "f"].map(name).into_iter().zip([7, 8, 9]).collect();
        for (gone_at, places, names, expected) in [
            (vec![], vec![], vec![], Some(vec![])),
            (vec![1], vec![], vec![], Some(vec![8])),
            (vec![1], vec![1], vec!["d"], Some(vec![8])),
            (vec![0, 2], vec![0, 2], vec!["a", "e"], Some(vec![7, 9])),
            (vec![], vec![0, 2, 4, 6], vec!["a", "c", "e", "g"], Some(vec![])),
            (vec![], vec![0], vec!["z"], None),
            (vec![], vec![1], vec!["d"], None),
            (vec![], vec![2], vec!["d"], None),
            (vec![1], vec![2], vec!["c"], None),
        ] {
            let differences = Differences { gone: gone_at, added: places };
            let added: Vec<_> = names.into_iter().map(entry).collect();
            assert_eq!(gone(&current, &differences, &added), expected, "{differences:?}");
        }
    }
}
