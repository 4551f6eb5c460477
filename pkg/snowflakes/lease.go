package snowflakes

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"time"

	"github.com/bwmarrin/snowflake"
	"github.com/redis/go-redis/v9"
)

// A lease is a key in Redis that names its owner by a random token and expires
// by itself, and beside it, in the hash of marks, the time up to which the
// number's owners may have made ids. Who takes or renews a lease moves the mark
// first, and makes only ids whose own time lies above the mark that it found
// and below the one that it set. The times of one number's owners therefore
// never overlap, whatever clocks say:
//
//   - A process that stands still (SIGSTOP, a long pause of a machine) finds on
//     waking that its ids lie beyond its mark, and throws them away.
//   - A suspended machine's monotonic clock stands still with it, so that its
//     ids still lie below its mark: then they are older than those of whoever
//     has the number now, and still nobody else's.
//   - On a machine whose clock is behind that of the last owner, the number is
//     passed over until its clock has reached the mark.
//   - A number that is given back is not used again in the same millisecond:
//     its mark is then the time of the last id.
//
// The expiry of the key decides only when another may try. Times are Unix
// milliseconds, of which Lua's numbers hold far more than there are.
type lease struct {
	number int64
	owner  string
	node   *snowflake.Node

	// Guarded by Generator.mu once the lease is in use.
	floor    int64     // ids are later than this: the mark that was found
	limit    int64     // and not later than this: the mark that was set, less a margin
	mark     int64     // the mark that was set
	last     int64     // of the newest id
	deadline time.Time // the key may have expired from here on
}

// covers reports whether an id is this lease's to give. now is read after the
// id was made.
func (l *lease) covers(id int64, now time.Time) bool {
	t := millis(id)
	return t > l.floor && t <= l.limit && now.Before(l.deadline)
}

// extend takes over what Redis has confirmed. sent is read before the command
// was: the key can not expire before sent + lease. A tenth of it is margin for
// clocks that run at different speeds.
func (l *lease) extend(sent time.Time, mark int64, lease time.Duration) {
	margin := lease / 10
	l.mark = mark
	l.limit = mark - margin.Milliseconds()
	l.deadline = sent.Add(lease - margin)
}

// keys are the names in Redis. The braces put them all on one node of a
// cluster, as a script wants them.
type keys struct {
	prefix string
	marks  string
}

func newKeys(prefix string) keys {
	prefix += ":{snowflake}:"
	return keys{prefix: prefix, marks: prefix + "marks"}
}

func (k keys) node(number int64) string {
	return k.prefix + "node:" + strconv.FormatInt(number, 10)
}

// KEYS: the marks, then nodes. ARGV: owner, lease in ms, the taker's time, the
// new mark, then the numbers of the nodes. Returns the number and the mark
// found there, or how many free numbers were passed over for their mark.
var acquireScript = redis.NewScript(`
local ahead = 0
for i = 2, #KEYS do
	local number = ARGV[i + 3]
	local mark = redis.call('HGET', KEYS[1], number)
	if mark and tonumber(mark) >= tonumber(ARGV[3]) then
		if redis.call('EXISTS', KEYS[i]) == 0 then
			ahead = ahead + 1
		end
	elseif redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2]) then
		redis.call('HSET', KEYS[1], number, ARGV[4])
		return {number, mark or '0'}
	end
end
return {ahead}
`)

// KEYS: the node, the marks. ARGV: owner, lease in ms, number, the new mark.
var renewScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
	return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
`)

// KEYS: the node, the marks. ARGV: owner, number, the time of the last id.
var releaseScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
	return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
`)

// chunk is how many numbers one call looks at: with few leases the first call
// succeeds, and 16 calls have seen all.
const chunk = 64

// acquire leases the first free number, from a random one on so that processes
// that start together do not queue up behind each other.
func (g *Generator) acquire(ctx context.Context) (*lease, error) {
	owner := rand.Text()
	start := mathrand.IntN(g.cfg.nodes)
	ahead := 0
	for seen := 0; seen < g.cfg.nodes; seen += chunk {
		n := min(chunk, g.cfg.nodes-seen)
		sent := time.Now()
		mark := sent.Add(g.cfg.Lease).UnixMilli()
		keys := []string{g.keys.marks}
		args := []any{owner, g.cfg.Lease.Milliseconds(), sent.UnixMilli(), mark}
		for i := range n {
			number := int64((start + seen + i) % g.cfg.nodes)
			keys = append(keys, g.keys.node(number))
			args = append(args, number)
		}
		found, err := acquireScript.Run(ctx, g.cfg.Redis, keys, args...).Int64Slice()
		if err != nil {
			return nil, fmt.Errorf("lease a node number: %w", err)
		}
		if len(found) != 2 {
			ahead += int(found[0])
			continue
		}
		l := &lease{number: found[0], owner: owner, floor: found[1], last: found[1]}
		l.extend(sent, mark, g.cfg.Lease)
		// It reads the wall clock once and counts on with the monotonic one: its
		// time never runs backwards.
		if l.node, err = snowflake.NewNode(l.number); err != nil {
			return nil, fmt.Errorf("snowflake node %d: %w", l.number, err)
		}
		return l, nil
	}
	if ahead > 0 {
		return nil, fmt.Errorf("%w, or were last used by a clock ahead of this machine's (%d of them)", ErrExhausted, ahead)
	}
	return nil, ErrExhausted
}

// renew reports whether the lease is still ours, and then prolongs it.
func (g *Generator) renew(ctx context.Context, l *lease) (bool, error) {
	sent := time.Now()
	// Of the node's own clock, which is what ids carry: the machine's may have
	// been set since. The mark is only ever moved up.
	mark := max(millis(l.node.Generate().Int64())+g.cfg.Lease.Milliseconds(), l.mark)
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Lease/3)
	defer cancel()
	owned, err := renewScript.Run(ctx, g.cfg.Redis, []string{g.keys.node(l.number), g.keys.marks},
		l.owner, g.cfg.Lease.Milliseconds(), l.number, mark).Bool()
	if err != nil || !owned {
		return false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	l.extend(sent, mark, g.cfg.Lease)
	return true, nil
}

// release gives a number back that Next does not use any more.
func (g *Generator) release(ctx context.Context, l *lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	err := releaseScript.Run(ctx, g.cfg.Redis, []string{g.keys.node(l.number), g.keys.marks},
		l.owner, l.number, l.last).Err()
	if err != nil {
		// It expires by itself.
		g.cfg.Log.WithError(err).WithField("node", l.number).Warn("snowflakes: the lease could not be given back")
	}
}
