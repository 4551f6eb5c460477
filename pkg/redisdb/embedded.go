//go:build !nodev

package redisdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Embedded is a Redis in this process, for `minigate dev` and for nothing that
// has to last: what is in it is written to a file at the end and every few
// seconds, so that a crash forgets the last of them.
type Embedded struct {
	redis.UniversalClient
	server *miniredis.Miniredis
	path   string
	lock   *os.File // nil where nothing is kept
}

const (
	// saveEvery is how much a crash may forget.
	saveEvery = 5 * time.Second
	// stepEvery is how exactly keys expire: miniredis lets no time pass by itself.
	stepEvery = 250 * time.Millisecond
)

// OpenEmbedded starts the server on a free loopback port, with what the file at
// path holds; an empty path keeps nothing. Run is to be called.
func OpenEmbedded(path string) (*Embedded, error) {
	e := &Embedded{server: miniredis.NewMiniRedis(), path: path}
	if path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("open the embedded redis: %w", err)
		}
		var err error
		if e.lock, err = lock(path + ".lock"); err != nil {
			return nil, fmt.Errorf("open the embedded redis: %w", err)
		}
	}
	if err := e.server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, errors.Join(fmt.Errorf("start the embedded redis: %w", err), e.unlock())
	}
	e.UniversalClient = redis.NewClient(&redis.Options{Addr: e.server.Addr()})
	if err := e.load(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// Run lets time pass in the server and saves it, until ctx ends; it then saves a
// last time and ends the server. A client of it fails after that.
func (e *Embedded) Run(ctx context.Context) error {
	step, save := time.NewTicker(stepEvery), time.NewTicker(saveEvery)
	defer step.Stop()
	defer save.Stop()
	for last := time.Now(); ; {
		select {
		case <-step.C:
			now := time.Now()
			e.server.SetTime(now)
			e.server.FastForward(now.Sub(last))
			last = now
		case <-save.C:
			if err := e.save(); err != nil {
				return errors.Join(err, e.close())
			}
		case <-ctx.Done():
			return errors.Join(e.save(), e.close())
		}
	}
}

func (e *Embedded) close() error {
	err := e.UniversalClient.Close()
	e.server.Close()
	return errors.Join(err, e.unlock())
}

func (e *Embedded) unlock() error {
	if e.lock == nil {
		return nil
	}
	return e.lock.Close()
}

// entry is one key in the file; a string may hold any bytes, the other kinds hold
// text only.
type entry struct {
	Key     string             `json:"key"`
	String  []byte             `json:"string"` // nil where it is of another kind
	Hash    map[string]string  `json:"hash,omitempty"`
	Set     []string           `json:"set,omitempty"`
	Sorted  map[string]float64 `json:"sorted,omitempty"`
	Expires time.Time          `json:"expires,omitzero"`
}

// keep says whether a key belongs in the file: who is connected, and which
// process has which node number, must not outlive the process.
func keep(key string) bool {
	for _, part := range []string{":presence:", ":node:"} {
		if strings.Contains(key, part) {
			return false
		}
	}
	return true
}

func (e *Embedded) save() error {
	if e.path == "" {
		return nil
	}
	now := time.Now()
	var entries []entry
	for _, key := range e.server.Keys() {
		if !keep(key) {
			continue
		}
		x := entry{Key: key}
		if ttl := e.server.TTL(key); ttl > 0 {
			x.Expires = now.Add(ttl)
		}
		if !e.read(&x) {
			continue
		}
		entries = append(entries, x)
	}
	b, err := json.Marshal(entries)
	if err != nil {
		return fmt.Errorf("save the embedded redis: %w", err)
	}
	// A crash while writing leaves the old file.
	temporary := e.path + ".new"
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return fmt.Errorf("save the embedded redis: %w", err)
	}
	if err := os.Rename(temporary, e.path); err != nil {
		return fmt.Errorf("save the embedded redis: %w", err)
	}
	return nil
}

// read takes a key's value; it reports false when the key is gone by now.
func (e *Embedded) read(x *entry) bool {
	var err error
	switch e.server.Type(x.Key) {
	case "string":
		var v string
		v, err = e.server.Get(x.Key)
		x.String = []byte(v)
	case "hash":
		var fields []string
		fields, err = e.server.HKeys(x.Key)
		x.Hash = make(map[string]string, len(fields))
		for _, field := range fields {
			x.Hash[field] = e.server.HGet(x.Key, field)
		}
	case "set":
		x.Set, err = e.server.Members(x.Key)
	case "zset":
		x.Sorted, err = e.server.SortedSet(x.Key)
	default:
		return false
	}
	return err == nil
}

func (e *Embedded) load() error {
	if e.path == "" {
		return nil
	}
	b, err := os.ReadFile(e.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load the embedded redis: %w", err)
	}
	var entries []entry
	if err := json.Unmarshal(b, &entries); err != nil {
		return fmt.Errorf("load the embedded redis from %s: %w", e.path, err)
	}
	now := time.Now()
	e.server.SetTime(now)
	for _, x := range entries {
		if !x.Expires.IsZero() && !x.Expires.After(now) {
			continue
		}
		if err := e.write(x); err != nil {
			return fmt.Errorf("load the embedded redis, key %q: %w", x.Key, err)
		}
		if !x.Expires.IsZero() {
			e.server.SetTTL(x.Key, x.Expires.Sub(now))
		}
	}
	return nil
}

func (e *Embedded) write(x entry) error {
	switch {
	case x.String != nil:
		return e.server.Set(x.Key, string(x.String))
	case len(x.Hash) > 0:
		for field, v := range x.Hash {
			e.server.HSet(x.Key, field, v)
		}
	case len(x.Set) > 0:
		_, err := e.server.SAdd(x.Key, x.Set...)
		return err
	case len(x.Sorted) > 0:
		for member, score := range x.Sorted {
			if _, err := e.server.ZAdd(x.Key, score, member); err != nil {
				return err
			}
		}
	}
	return nil
}
