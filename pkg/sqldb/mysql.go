package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

const (
	// A connection is younger than what proxies and servers let live, so that
	// neither cuts it in the middle of a statement.
	mysqlLifetime = 3 * time.Minute
	mysqlIdle     = time.Minute

	// Strict, whatever the server's configuration says: a text that is too long
	// is an error, as everywhere else, and is not cut off in silence.
	mysqlMode = "'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"

	mysqlCharset   = "utf8mb4"
	mysqlCollation = "utf8mb4_bin"
)

type mysqlDialect struct {
	cfg *mysql.Config
}

func openMySQL(cfg Config) (*DB, error) {
	c, err := mysqlConfig(cfg)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, addressError(cfg.Address, err.Error())
	}
	pool := cfg.pool(connector, aboutMySQL(c)...)
	pool.SetMaxOpenConns(cfg.MaxOpen)
	// As many idle as open: closing and dialing again under load costs more
	// than keeping them.
	pool.SetMaxIdleConns(cfg.MaxOpen)
	pool.SetConnMaxLifetime(mysqlLifetime)
	pool.SetConnMaxIdleTime(mysqlIdle)
	return &DB{read: pool, write: pool, dialect: mysqlDialect{cfg: c}}, nil
}

// aboutMySQL is what spans say of the server.
func aboutMySQL(c *mysql.Config) []attribute.KeyValue {
	about := []attribute.KeyValue{semconv.DBSystemNameMySQL, semconv.DBNamespace(c.DBName)}
	if host, port, err := net.SplitHostPort(c.Addr); err == nil {
		about = append(about, semconv.ServerAddress(host))
		if n, err := strconv.Atoi(port); err == nil {
			about = append(about, semconv.ServerPort(n))
		}
	}
	return about
}

// mysqlConfig turns an address into the driver's configuration.
func mysqlConfig(cfg Config) (*mysql.Config, error) {
	dsn := cfg.Address
	if strings.HasPrefix(dsn, "mysql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			// The error of url.Parse repeats the whole address.
			return nil, addressError(dsn, "not a URL")
		}
		c := mysql.NewConfig()
		c.User, c.Passwd = urlUser(u)
		c.Net, c.Addr = "tcp", u.Host
		if u.Port() == "" {
			c.Addr = net.JoinHostPort(u.Hostname(), "3306")
		}
		c.DBName = strings.TrimPrefix(u.Path, "/")
		dsn = c.FormatDSN()
		if u.RawQuery != "" {
			separator := "?"
			if strings.Contains(dsn[strings.LastIndexByte(dsn, '/'):], "?") {
				separator = "&"
			}
			dsn += separator + u.RawQuery
		}
	}
	c, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, addressError(cfg.Address, err.Error())
	}
	if c.DBName == "" {
		return nil, addressError(cfg.Address, "names no database")
	}
	if err := c.Apply(mysql.Charset(mysqlCharset, mysqlCollation)); err != nil {
		return nil, addressError(cfg.Address, err.Error())
	}
	if c.Params == nil {
		c.Params = map[string]string{}
	}
	c.Params["sql_mode"] = mysqlMode
	// One round trip for a statement instead of three. utf8mb4 is one of the
	// character sets in which the driver's escaping is safe.
	c.InterpolateParams = true
	// An update that sets what is there already has matched its row, as in
	// SQLite; MySQL alone would count 0.
	c.ClientFoundRows = true
	c.ParseTime = false
	c.MultiStatements = false
	if c.Timeout == 0 {
		c.Timeout = cfg.Timeout
	}
	if c.ReadTimeout == 0 {
		c.ReadTimeout = cfg.Timeout
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = cfg.Timeout
	}
	// The driver would print what it also returns.
	c.Logger = &mysql.NopLogger{}
	return c, nil
}

// Credentials are the user and the password in an address of MySQL, in either form;
// both are empty where it has none, or is none.
func Credentials(address string) (user, password string) {
	c, err := mysqlConfig(Config{Address: address})
	if err != nil {
		return "", ""
	}
	return c.User, c.Passwd
}

// init uses connections of its own: only they may run several statements at
// once, and the database may not be there yet to connect to.
func (d mysqlDialect) init(ctx context.Context, _ *DB, schema string) error {
	server := d.cfg.Clone()
	server.DBName = ""
	create := "CREATE DATABASE IF NOT EXISTS " + quoteName(d.cfg.DBName) +
		" CHARACTER SET " + mysqlCharset + " COLLATE " + mysqlCollation
	if err := execOnce(ctx, server, create); err != nil {
		// A user who may not create databases can still fill one that is there.
		var e *mysql.MySQLError
		if !errors.As(err, &e) || e.Number != errDBAccessDenied {
			return fmt.Errorf("create database %s: %w", d.cfg.DBName, err)
		}
	}
	database := d.cfg.Clone()
	database.MultiStatements = true
	if err := execOnce(ctx, database, schema); err != nil {
		return fmt.Errorf("apply schema to database %s: %w", d.cfg.DBName, err)
	}
	return nil
}

// execOnce runs a text on a connection that is closed afterwards.
func execOnce(ctx context.Context, cfg *mysql.Config, text string) (err error) {
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return err
	}
	pool := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, pool.Close()) }()
	_, err = pool.ExecContext(ctx, text)
	return err
}

func quoteName(name string) string {
	return "`" + strings.ReplaceAll(name, "`", "``") + "`"
}
