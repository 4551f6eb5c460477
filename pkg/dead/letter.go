package dead

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// Letter is what is known of a dead letter without its payload.
type Letter struct {
	bus.Letter

	// ID is the same as long as the letter is in the queue, whatever happens to
	// others: it is made of what the letter holds. What stands before the dash is of
	// the message alone, and two letters have it in common where one message died
	// twice at once: its consumer was killed between the letter and the ack, and the
	// next one wrote another. What stands behind is of the letter's headers. Letters
	// that are the same to the last byte get a number behind a dot, in the order of
	// the queue: which of them is which makes no difference.
	ID string
	// Copy is 2 for the second letter of the same message, and so on; otherwise 1.
	Copy int
	// Queue is where the message was, and where Requeue puts it back; empty where
	// nothing says so.
	Queue string
	// Type is the protobuf name of an event, empty for an envelope of requests.
	Type string
	// MessageID is AMQP's, which pkg/events sets.
	MessageID string
	Size      int // of the payload, in bytes
}

// headerType and headerID are what pkg/events puts on a message, as text.
const (
	headerType = "name"
	headerID   = "id"
)

func newLetter(d *amqp.Delivery, t bus.Topology, seen *ids) *Letter {
	text := func(name string) string {
		s, _ := d.Headers[name].(string)
		return s
	}
	l := &Letter{Letter: bus.ReadLetter(text), Type: text(headerType), MessageID: d.MessageId, Size: len(d.Body)}
	byBroker := readDeath(d.Headers)
	if d.Exchange == t.DeadExchange() {
		l.Queue = d.RoutingKey
	} else {
		l.Queue = byBroker.queue
	}
	if l.Queue == t.DeadQueue() {
		l.Queue = "" // somebody published to the queue itself
	}
	l.addDeath(byBroker, t)
	l.ID, l.Copy = seen.next(marks(l, d, text(headerID)))
	return l
}

// addDeath adds what only the broker knows. A letter that its consumer wrote may
// have died by the broker's hand in an earlier life, and then that is no news.
func (l *Letter) addDeath(b death, t bus.Topology) {
	if b.queue == "" || l.Reason != "" {
		return
	}
	l.Reason = b.why()
	l.First, l.Deaths = b.first, b.count
	if b.count == 1 {
		l.Last = b.first
	}
	switch b.exchange {
	case t.RequestExchange():
		l.Route = b.key
	case t.EventExchange():
		l.Event = b.key
	}
}

// Subject is the route or the event.
func (l *Letter) Subject() string {
	if l.Event != "" {
		return l.Event
	}
	return l.Route
}

// Died is when the message last became a dead letter, as far as that is known: the
// broker says of those that died by its hand only when they first did.
func (l *Letter) Died() time.Time {
	if l.Last.IsZero() {
		return l.First
	}
	return l.Last
}

// death is the newest entry of the header x-death, which the broker writes.
type death struct {
	queue, exchange, key, reason string
	count                        int
	first                        time.Time
}

func readDeath(headers amqp.Table) (b death) {
	entries, _ := headers["x-death"].([]any)
	if len(entries) == 0 {
		return b
	}
	entry, _ := entries[0].(amqp.Table)
	b.queue, _ = entry["queue"].(string)
	b.exchange, _ = entry["exchange"].(string)
	b.reason, _ = entry["reason"].(string)
	if count, _ := entry["count"].(int64); count > 0 {
		b.count = int(count)
	}
	b.first, _ = entry["time"].(time.Time)
	if keys, _ := entry["routing-keys"].([]any); len(keys) > 0 {
		b.key, _ = keys[0].(string)
	}
	return b
}

// why says the broker's reason in words.
func (b death) why() string {
	switch b.reason {
	case "rejected":
		return "rejected by its consumer, which gave no reason"
	case "expired":
		return "it waited longer than it may"
	case "maxlen":
		return "its queue was full"
	case "delivery_limit":
		return "delivered too often"
	}
	return "dead-lettered by the broker: " + b.reason
}

// marks are what a letter's id is made of. Headers that begin with x- are the
// broker's, which counts deliveries in them.
func marks(l *Letter, d *amqp.Delivery, id string) (message [5]byte, letter [2]byte) {
	h := sha256.New()
	put := func(text string) { _, _ = io.WriteString(h, fmt.Sprintf("%d:%s", len(text), text)) } // a hash takes everything
	put(l.Queue)
	put(id)
	_, _ = h.Write(d.Body)
	sum := h.Sum(nil)
	copy(message[:], sum)
	headers := maps.Clone(d.Headers)
	maps.DeleteFunc(headers, func(name string, _ any) bool { return strings.HasPrefix(name, "x-") })
	put(d.MessageId)
	put(fmt.Sprint(d.Timestamp.Unix()))
	put(fmt.Sprint(plain(headers))) // sorted by name
	copy(letter[:], h.Sum(nil))
	return message, letter
}

// plain is a header's value with all times in UTC: they are read in this machine's
// zone.
func plain(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.Unix()
	case amqp.Table:
		all := make(map[string]any, len(v))
		for name, value := range v {
			all[name] = plain(value)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, value := range v {
			all[i] = plain(value)
		}
		return all
	}
	return v
}
