package codec

import "errors"

// ErrShort is no fault: what there is may be the beginning of a packet, and
// more bytes are needed to tell.
var ErrShort = errors.New("codec: more bytes are needed")

// What can be wrong with a packet. Where the next packet would begin is not
// known after these.
var (
	// ErrPacketType: the type is none of the five.
	ErrPacketType = errors.New("codec: unknown packet type")
	// ErrPacketLength: the body is over MaxBody, as read or as to be written.
	ErrPacketLength = errors.New("codec: packet body is over 65536 bytes")
)

// What can be wrong with a message.
var (
	// ErrTruncated: a field, or the length before it, ends behind the message.
	ErrTruncated = errors.New("codec: message is truncated")
	// ErrFlag: one of the two empty bits of the flag is set.
	ErrFlag = errors.New("codec: reserved bits of the message flag are set")
	// ErrMessageType: the message type is 5, 6 or 7.
	ErrMessageType = errors.New("codec: unknown message type")
	// ErrDataType: the data type is 3.
	ErrDataType = errors.New("codec: unknown data type")
	// ErrIDLength: the id takes more than 8 bytes.
	ErrIDLength = errors.New("codec: message id is over 8 bytes")
	// ErrCodeLength: the flag says that the route is a code, and it does not take
	// 1 or 2 bytes.
	ErrCodeLength = errors.New("codec: route code does not take 1 or 2 bytes")
	// ErrRouteLength: the route is over 255 bytes, or, in a dictionary, empty.
	ErrRouteLength = errors.New("codec: route does not take 1 to 255 bytes")
	// ErrRouteText: the route is not UTF-8.
	ErrRouteText = errors.New("codec: route is not UTF-8")
	// ErrNameLength: the name to be written is over 255 bytes.
	ErrNameLength = errors.New("codec: name is over 255 bytes")
	// ErrNameText: the name is not UTF-8.
	ErrNameText = errors.New("codec: name is not UTF-8")
)

// What can be wrong with the fragments of a message, and with its size.
var (
	// ErrFragmentFirst: a message begins with an index that is not 0.
	ErrFragmentFirst = errors.New("codec: first fragment of a message does not have index 0")
	// ErrFragmentGap: an index is over the next one.
	ErrFragmentGap = errors.New("codec: fragment is missing")
	// ErrFragmentRepeat: an index has been there before.
	ErrFragmentRepeat = errors.New("codec: fragment is repeated")
	// ErrFragmentInterrupted: a whole message comes between fragments.
	ErrFragmentInterrupted = errors.New("codec: whole message between the fragments of another")
	// ErrFragmentCount: more fragments are announced after the 128th.
	ErrFragmentCount = errors.New("codec: more than 128 fragments")
	// ErrMessageSize: the message is over the limit that was given, or, to be
	// written, over MaxMessage.
	ErrMessageSize = errors.New("codec: message is over the limit")
)

// What can be wrong with a dictionary.
var (
	// ErrDictionaryFull: another route would be over the limit of the dictionary,
	// or over what fits into a handshake.
	ErrDictionaryFull = errors.New("codec: dictionary is full")
	// ErrDictionaryLimit: the limit given is not between 0 and MaxCodes.
	ErrDictionaryLimit = errors.New("codec: dictionary limit is not between 0 and 65535")
	// ErrDictionaryJSON: what was read is not a JSON object of numbers.
	ErrDictionaryJSON = errors.New("codec: dictionary is not a JSON object of numbers")
	// ErrDictionaryCode: a code is not a whole number between 1 and 65535.
	ErrDictionaryCode = errors.New("codec: dictionary code is not between 1 and 65535")
	// ErrDictionaryTwice: a code or a route is there twice.
	ErrDictionaryTwice = errors.New("codec: dictionary names a code or a route twice")
)
