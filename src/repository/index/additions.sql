-- What was added to the schema since the first index was made; done anew whenever one is opened.
DROP INDEX IF EXISTS version_past;
CREATE INDEX IF NOT EXISTS version_span ON version (directory, name, until_run, from_run) WHERE until_run IS NOT NULL;
CREATE TABLE IF NOT EXISTS attributes (
    id      INTEGER PRIMARY KEY,
    digest  BLOB NOT NULL UNIQUE,       -- of the value: 16 bytes of its BLAKE3
    value   TEXT NOT NULL               -- extended attributes as getfattr dumps them, and where data is between holes
);
CREATE INDEX IF NOT EXISTS version_attributes ON version (attributes) WHERE attributes IS NOT NULL;
-- What directories were like on the client when their fingerprints were kept.
CREATE TABLE IF NOT EXISTS listed (
    directory INTEGER PRIMARY KEY,
    inode     INTEGER NOT NULL,         -- its number: a directory that was renamed is found by it
    digests   BLOB                      -- of its entries, whose fingerprint that is; NULL for a large one
);
CREATE INDEX IF NOT EXISTS listed_inode ON listed (inode);
-- Directories on which another file system was mounted when they were listed last.
CREATE TABLE IF NOT EXISTS mount (
    directory INTEGER PRIMARY KEY
);
-- What a guard has stopped the newest pull of a source for.
CREATE TABLE IF NOT EXISTS stopped (
    source   INTEGER PRIMARY KEY REFERENCES source,
    run      INTEGER NOT NULL,
    reason   TEXT NOT NULL,             -- the error's line
    removed  INTEGER NOT NULL,          -- files that would have gone
    paths    BLOB NOT NULL,             -- missing and empty roots, each with a NUL behind it
    accepted INTEGER NOT NULL           -- 1 when the next pull may remove that
);
-- The files that would have gone, besides those in and below missing paths.
CREATE TABLE IF NOT EXISTS stopped_file (
    version INTEGER PRIMARY KEY,        -- which was current then
    source  INTEGER NOT NULL REFERENCES source
);
-- Below which roots a guard counted the files that would have gone: only a pull of these ends the stop.
CREATE TABLE IF NOT EXISTS stopped_root (
    source  INTEGER NOT NULL REFERENCES source,
    path    BLOB NOT NULL,
    PRIMARY KEY (source, path)
) WITHOUT ROWID;
DROP TABLE IF EXISTS verified;
-- Which machine a source was in its last run.
CREATE TABLE IF NOT EXISTS machine (
    source  INTEGER PRIMARY KEY REFERENCES source,
    id      BLOB NOT NULL               -- 16 bytes, derived from machine-id(5)
);
-- When plain files were last read by `verify`, and what came of it.
CREATE TABLE IF NOT EXISTS examined (
    version INTEGER PRIMARY KEY,        -- whose plain file was read
    ended   INTEGER NOT NULL,           -- nanoseconds since 1970 UTC
    bad     INTEGER NOT NULL            -- 1 when it was not what the index says
);
CREATE TABLE IF NOT EXISTS verification (
    source  INTEGER PRIMARY KEY REFERENCES source,
    ended   INTEGER NOT NULL,           -- nanoseconds since 1970 UTC
    files   INTEGER NOT NULL,           -- plain files that were read
    bad     INTEGER NOT NULL            -- and what was not as it should be
);
