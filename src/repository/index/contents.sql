-- Where contents are, by the first bytes of their hashes, and which sizes files have.
CREATE TABLE content (
    head    BLOB NOT NULL,              -- of the hash: 8 bytes
    version INTEGER NOT NULL REFERENCES version,
    PRIMARY KEY (head, version)
) WITHOUT ROWID;
CREATE TABLE new_content (              -- as `content`, of versions that are not in it yet
    head    BLOB NOT NULL,
    version INTEGER NOT NULL REFERENCES version,
    PRIMARY KEY (head, version)
) WITHOUT ROWID;
CREATE TABLE size (
    bytes   INTEGER PRIMARY KEY         -- some file has this size, or had it
);
