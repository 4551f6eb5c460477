-- The tables of minigate, for MySQL or MariaDB and for SQLite alike. "minigate
-- db init" applies this file, as often as one likes: what exists stays.
--
-- One file serves both because it keeps to the SQL that they share:
--   * Keys are snowflake ids that the program makes, so no AUTO_INCREMENT.
--   * Constraints and indexes stand inside CREATE TABLE: SQLite has no KEY
--     clause, and MySQL has no CREATE INDEX IF NOT EXISTS.
--   * What only MySQL understands stands in /*! … */, which MySQL executes and
--     SQLite takes for a comment: the character set, which is always UTF-8 in
--     SQLite, whatever the default of the MySQL database is.
--   * A time is a BIGINT of Unix milliseconds: no time zone, no driver setting.
--
-- Text is utf8mb4 with a binary collation: all of Unicode, and equal means the
-- same code points. utf8mb4_bin still ignores blanks at the end of a string,
-- so a column that is a key is CHARACTER SET binary, which makes MySQL's
-- VARCHAR(n) n bytes long and compares all of them.

-- Accounts; workers/auth owns this table.
CREATE TABLE IF NOT EXISTS users (
    id BIGINT NOT NULL PRIMARY KEY,
    -- As its owner wrote it, which is how others see it.
    account VARCHAR(32) NOT NULL,
    -- The same in the form in which accounts are compared: lower case and
    -- normalized. The program folds it, not a collation, because no two
    -- databases fold alike.
    account_key VARCHAR(255) /*! CHARACTER SET binary */ NOT NULL UNIQUE,
    nickname VARCHAR(64) NOT NULL,
    -- Not unique: if it were, registering would tell anybody whether an address
    -- has an account here, and whoever came first could keep the owner of an
    -- address out without ever proving that it is theirs. Accounts are found
    -- by account_key alone, also to reset a password.
    email VARCHAR(254) NOT NULL,
    email_verified BOOLEAN NOT NULL DEFAULT FALSE,
    -- argon2id as a PHC string, which carries its own parameters and salt.
    password_hash VARCHAR(255) NOT NULL,
    created_at BIGINT NOT NULL
) /*! ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */;

-- What two users say to each other; workers/chat owns this table and the next.
-- Its users have no foreign key: users belong to another service, which may
-- keep them in another database.
CREATE TABLE IF NOT EXISTS conversations (
    id BIGINT NOT NULL PRIMARY KEY,
    -- The pair in rising order, so that it is one row whoever wrote first. Both
    -- are the same user in a conversation with oneself.
    user_low BIGINT NOT NULL,
    user_high BIGINT NOT NULL,
    -- Of the newest message. Taking a number is an update of this row in the
    -- transaction that stores the message, hence no gap and no two alike.
    last_number BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    UNIQUE (user_low, user_high),
    CHECK (user_low <= user_high)
) /*! ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS messages (
    conversation BIGINT NOT NULL,
    -- 1, 2, 3 … in each conversation; a history reads along this key.
    number BIGINT NOT NULL,
    sender BIGINT NOT NULL,
    -- The sender's own id of the message, 64 characters of at most 4 bytes. A
    -- message that is sent again meets UNIQUE instead of being stored twice.
    client_id VARCHAR(256) /*! CHARACTER SET binary */ NOT NULL,
    -- At most 16,384 bytes; MySQL's TEXT holds 65,535.
    text TEXT NOT NULL,
    sent_at BIGINT NOT NULL,
    PRIMARY KEY (conversation, number),
    UNIQUE (sender, client_id),
    FOREIGN KEY (conversation) REFERENCES conversations (id)
) /*! ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */;
