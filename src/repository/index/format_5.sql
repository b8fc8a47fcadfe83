-- From format 4 to 5.
ALTER TABLE source ADD COLUMN layout INTEGER NOT NULL DEFAULT 1;
ALTER TABLE version ADD COLUMN relies_on INTEGER REFERENCES version;
-- Builds of format 2 had another table of this name, which later ones left alone.
DROP TABLE IF EXISTS inode;
CREATE TABLE inode (
    number  INTEGER PRIMARY KEY,
    size    INTEGER NOT NULL,
    mtime   INTEGER NOT NULL,
    ctime   INTEGER NOT NULL,
    hash    BLOB NOT NULL,
    read    INTEGER NOT NULL
);
-- No two versions may claim one name; what the second one loses is found by its content.
UPDATE version SET archive_name = NULL WHERE archive_name IS NOT NULL AND EXISTS
    (SELECT 1 FROM version AS other WHERE other.directory = version.directory AND other.name = version.name
     AND other.archive_name = version.archive_name AND other.id < version.id);
CREATE UNIQUE INDEX version_archived ON version (directory, archive_name) WHERE archive_name IS NOT NULL;
-- A version that was followed by one with the same content and mtime left its plain file to that one.
UPDATE version SET relies_on =
    (SELECT next.id FROM version AS next
     WHERE next.directory = version.directory AND next.name = version.name AND next.until_run IS NULL
     AND next.from_run = version.until_run AND next.from_run > version.from_run AND next.kind = version.kind AND next.mtime = version.mtime
     AND next.hash IS version.hash AND next.target IS version.target)
    WHERE until_run IS NOT NULL AND archive_name IS NULL AND kind IN (0, 2);
UPDATE version SET relies_on =
    (SELECT next.id FROM version AS next
     WHERE next.directory = version.directory AND next.name = version.name AND next.until_run IS NOT NULL
     AND next.from_run = version.until_run AND next.from_run > version.from_run AND next.kind = version.kind AND next.mtime = version.mtime
     AND next.hash IS version.hash AND next.target IS version.target LIMIT 1)
    WHERE until_run IS NOT NULL AND archive_name IS NULL AND kind IN (0, 2) AND relies_on IS NULL;
CREATE INDEX version_relies_on ON version (relies_on) WHERE relies_on IS NOT NULL;
