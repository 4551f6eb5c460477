//go:build nodev

package sqldb

import "context"

// Only `minigate dev` needs SQLite, and a Redis in the process. The image, which is
// for processes that have neither, is smaller by a sixth without the two.

func openSQLite(_ context.Context, _ string, cfg Config) (*DB, error) {
	return nil, checkSQLite("", cfg.Address)
}

func checkSQLite(_, address string) error {
	return addressError(address, "this build, with the tag nodev, has no SQLite")
}

func sqliteDuplicate(error) bool   { return false }
func sqliteUnavailable(error) bool { return false }
func sqliteMissing(error) bool     { return false }
func sqliteRetryable(error) bool   { return false }
