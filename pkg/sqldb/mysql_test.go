package sqldb

import (
	"testing"
	"time"
)

func TestMySQLConfig(t *testing.T) {
	for address, want := range map[string]struct{ user, password, addr, database string }{
		"mysql://ann:p%40s%2Fs%3Aw%3Ford@db.example:3307/chat": {"ann", "p@s/s:w?ord", "db.example:3307", "chat"},
		"mysql://ann@db.example/chat?timeout=2s":               {"ann", "", "db.example:3306", "chat"},
		"mysql://ann:x@[::1]/chat":                             {"ann", "x", "[::1]:3306", "chat"},
		"ann:x@tcp(127.0.0.1:3306)/chat?parseTime=true":        {"ann", "x", "127.0.0.1:3306", "chat"},
		"ann:x@tcp(127.0.0.1:3306)/chat?charset=latin1":        {"ann", "x", "127.0.0.1:3306", "chat"},
	} {
		c, err := mysqlConfig(Config{Address: address, Timeout: time.Second})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if c.User != want.user || c.Passwd != want.password || c.Addr != want.addr || c.DBName != want.database {
			t.Errorf("%s: user %q, password %q, address %q, database %q; want %+v", address, c.User, c.Passwd, c.Addr, c.DBName, want)
		}
		if c.ParseTime || !c.ClientFoundRows || !c.InterpolateParams || c.Collation != "utf8mb4_bin" || c.Params["sql_mode"] == "" {
			t.Errorf("%s: what the package depends on was overridden: %s", address, c.FormatDSN())
		}
		if c.ReadTimeout == 0 || c.WriteTimeout == 0 || c.Timeout == 0 {
			t.Errorf("%s: a time-out is missing", address)
		}
	}
	c, err := mysqlConfig(Config{Address: "mysql://ann@h/chat?timeout=2s", Timeout: time.Second})
	if err != nil || c.Timeout != 2*time.Second {
		t.Errorf("the address says 2s: %v, %v", c.Timeout, err)
	}
}
