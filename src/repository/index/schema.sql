-- The index of a repository. archive-tree(5) explains it; numbers of kinds, flags and outcomes stand there too.
CREATE TABLE source (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    layout  INTEGER NOT NULL            -- of its archive's directories: 1 as before format 5, 2 as described below
);
CREATE TABLE run (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    source  INTEGER NOT NULL REFERENCES source,
    started INTEGER NOT NULL,           -- nanoseconds since 1970 UTC
    ended   INTEGER,                    -- NULL while it goes on, or when it was cut off
    outcome TEXT,                       -- ok, partial, stopped, failed, rebuild
    summary TEXT                        -- the counts, the exit status and the error, as JSON
);
CREATE TABLE directory (
    id          INTEGER PRIMARY KEY,
    source      INTEGER NOT NULL REFERENCES source,
    path        BLOB NOT NULL,          -- absolute, on the client
    fingerprint BLOB,                   -- of the current versions in it; NULL when a pull must list it
    UNIQUE (source, path)
);
CREATE TABLE version (
    id           INTEGER PRIMARY KEY,
    directory    INTEGER NOT NULL REFERENCES directory,
    name         BLOB NOT NULL,
    kind         INTEGER NOT NULL,      -- 0 file, 1 dir, 2 symlink, 3 fifo, 4 socket, 5 char, 6 block
    size         INTEGER NOT NULL,
    mtime        INTEGER NOT NULL,      -- nanoseconds since 1970 UTC
    ctime        INTEGER NOT NULL,
    mode         INTEGER NOT NULL,
    uid          INTEGER NOT NULL,
    gid          INTEGER NOT NULL,
    target       BLOB,                  -- of a symlink
    device       INTEGER,               -- of a char or block
    inode_device INTEGER,               -- of a file with several names on the client
    inode_number INTEGER,
    hash         BLOB,                  -- BLAKE3 of a file's content
    from_run     INTEGER NOT NULL,      -- the run that found it
    until_run    INTEGER,               -- the run that found it gone or replaced; NULL while current
    archive_name BLOB,                  -- its name in the archive's directory of the same path
    flags        INTEGER NOT NULL,      -- 1 inconsistent, 2 unreadable, 4 rebuilt
    attributes   INTEGER REFERENCES attributes,
    relies_on    INTEGER REFERENCES version -- whose plain file is this one's, too; NULL when it has its own, or none
);
CREATE TABLE attributes (
    id      INTEGER PRIMARY KEY,
    digest  BLOB NOT NULL UNIQUE,       -- of the value: 16 bytes of its BLAKE3
    value   TEXT NOT NULL               -- extended attributes as getfattr dumps them, where data is between holes, far mtime
);
CREATE TABLE pending (
    source  INTEGER PRIMARY KEY REFERENCES source,
    format  INTEGER NOT NULL,           -- of the batch
    batch   BLOB NOT NULL               -- changes to the trees that are under way, or were cut off
);
CREATE TABLE inode (                    -- plain files of 16 KiB or more, after the last change that the program made to them
    number  INTEGER PRIMARY KEY,        -- of the inode, on the server
    size    INTEGER NOT NULL,
    mtime   INTEGER NOT NULL,           -- nanoseconds since 1970 UTC
    ctime   INTEGER NOT NULL,
    hash    BLOB NOT NULL,              -- BLAKE3 of the content
    read    INTEGER NOT NULL            -- when that was last computed, nanoseconds since 1970 UTC
);
CREATE UNIQUE INDEX version_current ON version (directory, name) WHERE until_run IS NULL;
CREATE INDEX version_span ON version (directory, name, until_run, from_run) WHERE until_run IS NOT NULL;
CREATE INDEX version_attributes ON version (attributes) WHERE attributes IS NOT NULL;
CREATE UNIQUE INDEX version_archived ON version (directory, archive_name) WHERE archive_name IS NOT NULL;
CREATE INDEX version_relies_on ON version (relies_on) WHERE relies_on IS NOT NULL;
CREATE INDEX version_unreadable ON version (directory) WHERE flags & 2;
