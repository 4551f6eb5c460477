package sqldb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/go-sql-driver/mysql"
)

// Error numbers of MySQL and MariaDB.
const (
	errCheckRead         = 1020 // the row changed since this snapshot (MariaDB)
	errTooManyConns      = 1040
	errDBAccessDenied    = 1044
	errUnknownCommand    = 1047 // a Galera node that is not in its cluster
	errUnknownDatabase   = 1049
	errServerShutdown    = 1053
	errDuplicate         = 1062
	errHostBlocked       = 1129
	errUnknownTable      = 1146
	errUserConns         = 1203
	errLockWait          = 1205
	errDeadlock          = 1213
	errReadOnlyOption    = 1290
	errQueryInterrupted  = 1317
	errDuplicateKeyName  = 1586
	errReadOnlyTx        = 1792
	errReadOnlyMode      = 1836
	errServerIsGone      = 1927 // connection was killed (MariaDB)
	errClientInteraction = 4031 // disconnected for inactivity (MySQL 8)
)

// IsDuplicate reports whether a row was refused because its primary key or a
// unique column is taken. The transaction that it happened in can go on.
func IsDuplicate(err error) bool {
	var m *mysql.MySQLError
	if errors.As(err, &m) {
		return m.Number == errDuplicate || m.Number == errDuplicateKeyName
	}
	return sqliteDuplicate(err)
}

// Unavailable reports whether the database could not be reached, or can do
// nothing for now, so that the same may succeed later: what a client is told
// UNAVAILABLE for. Whether a statement that failed so had its effect is not
// known; a transaction has none unless it was the commit that failed.
//
// What is Missing is Unavailable, too: whoever runs the installation creates it.
// The end of the caller's own context is not.
func Unavailable(err error) bool {
	if err == nil {
		return false
	}
	if Missing(err) {
		return true
	}
	var m *mysql.MySQLError
	if errors.As(err, &m) {
		switch m.Number {
		case errTooManyConns, errUnknownCommand, errServerShutdown, errHostBlocked, errUserConns,
			errReadOnlyOption, errReadOnlyTx, errReadOnlyMode, errQueryInterrupted, errServerIsGone, errClientInteraction:
			return true
		}
		return Retryable(err)
	}
	if sqliteUnavailable(err) {
		return true
	}
	if errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	// context.DeadlineExceeded is a net.Error by its methods alone.
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) || errors.As(err, &dns)
}

// Missing reports whether the database, or a table in it, does not exist: Init
// has not been run.
func Missing(err error) bool {
	var m *mysql.MySQLError
	if errors.As(err, &m) {
		return m.Number == errUnknownDatabase || m.Number == errUnknownTable
	}
	return sqliteMissing(err)
}

// Retryable reports whether a transaction lost against another one and can be
// run again as a whole. Tx does so by itself.
func Retryable(err error) bool {
	var m *mysql.MySQLError
	if errors.As(err, &m) {
		return m.Number == errDeadlock || m.Number == errLockWait || m.Number == errCheckRead
	}
	return sqliteRetryable(err)
}
