package gate

import (
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/proto/commonpb"
)

// fail answers a request, or a notify that waits for its Ack, with an error: a
// Response named common.Error in the data type of the request.
func (s *session) fail(p *pending, code codes.Code, text string) {
	g := s.loop.gate
	g.stats.failed(code)
	s.endTrace(p, code)
	g.measures.answered(p.route, code, s.loop.micros-p.began)
	if s.state != active {
		return
	}
	body, err := failure.Encode(&commonpb.Error{Code: int32(code), Message: text}, p.data)
	if err != nil {
		s.logOf(p).WithError(err).Error("encode an error")
		return
	}
	m := codec.Message{
		Type: codec.Response, Data: p.data, ID: p.id, Compressed: p.compressed, Code: p.code,
		Name: []byte(failure.Name), Body: body,
	}
	if !p.compressed {
		m.Route = []byte(p.route)
	}
	if err := s.encode(&m); err != nil {
		s.logOf(p).WithError(err).Error("encode an error")
		return
	}
	s.flushLarge()
}
