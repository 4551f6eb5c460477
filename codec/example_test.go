package codec_test

import (
	"encoding/json"
	"fmt"

	"github.com/motto123/minigate/codec"
)

// A message is encoded straight into its packet, behind whatever else waits to
// be written, and becomes fragments where it does not fit.
func Example() {
	m := codec.Message{
		Type: codec.Request, Data: codec.JSON, ID: 1,
		Route: []byte("auth.login"), Body: []byte(`{"account":"a"}`),
	}
	var out []byte
	start := len(out)
	out = codec.BeginPacket(out, codec.Data, 0)
	out, err := codec.AppendMessage(out, &m)
	if err != nil {
		fmt.Println(err) // out is to be cut to start
		return
	}
	if out, err = codec.EndFragments(out, start); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%x\n", out[:codec.HeaderSize])

	var decoder codec.Decoder
	var assembler codec.Assembler
	for _, piece := range [][]byte{out[:3], out[3:20], out[20:]} {
		err := decoder.Feed(piece, func(p codec.Packet) error {
			b, done, err := assembler.Add(p, 1<<20)
			if err != nil || !done {
				return err
			}
			var m codec.Message
			if err := codec.DecodeMessage(b, &m); err != nil {
				return err
			}
			fmt.Printf("%v %d %s %s\n", m.Type, m.ID, m.Route, m.Body)
			return nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 0400001e00
	// request 1 auth.login {"account":"a"}
}

// What a connection knows of a dictionary is a number, and a client reads the
// codes up to it from the handshake's answer.
func ExampleDictionary() {
	dictionary, err := codec.NewDictionary(1000)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := dictionary.Add("auth.login", "chat.send"); err != nil {
		fmt.Println(err)
	}
	known := dictionary.Len()
	answer := dictionary.JSON(known)
	if err := dictionary.Add("game.move"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(string(answer))

	code, ok := dictionary.CodeOf("game.move")
	fmt.Println(code, ok, "known here:", int(code) <= known)

	var client codec.ClientDictionary
	if err := json.Unmarshal(answer, &client); err != nil {
		fmt.Println(err)
	}
	fmt.Println(client.Code([]byte("chat.send")))
	// Output:
	// {"auth.login":1,"chat.send":2}
	// 3 true known here: false
	// 2 true
}
