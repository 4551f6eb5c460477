//go:build nodev

package redisdb

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Embedded is not in this build.
type Embedded struct{ redis.UniversalClient }

var errNotEmbedded = errors.New("this build, with the tag nodev, has no Redis of its own: it can not run everything in one process")

// OpenEmbedded fails.
func OpenEmbedded(string) (*Embedded, error) { return nil, errNotEmbedded }

// Run fails.
func (e *Embedded) Run(context.Context) error { return errNotEmbedded }
