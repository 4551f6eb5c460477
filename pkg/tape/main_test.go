package tape

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// writerFolder names, in the environment of a child of a test, the folder that it
// writes into until it is killed.
const writerFolder = "MINIGATE_TEST_TAPE_FOLDER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerFolder); path != "" {
		if err := writeForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// writeForEver writes batches of many sizes, numbered on from what is there.
func writeForEver(path string) error {
	f, err := CreateFolder(FolderConfig{Path: path, MaxBytes: 1 << 30})
	if err != nil {
		return err
	}
	for n := int(f.current.offset); err == nil; n++ {
		b, _ := appendEntry(nil, numbered(n))
		f.Write(context.Background(), Batch{Body: b, Entries: 1}, func(e error) { err = e })
	}
	return err
}

// numbered is an entry whose number is known by its length.
func numbered(n int) *Entry {
	return &Entry{Kind: Requests, Worker: fmt.Sprint(n), Envelope: make([]byte, n%5000)}
}
