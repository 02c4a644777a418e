package main

import (
	"errors"
	"io"
	"regexp"
	"testing"

	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t, "-n", "100000").CombinedOutput()
	want := `^copied  : 100000 frames, [0-9.]+ million/s\nin place: 100000 frames, [0-9.]+ million/s\n$`
	if err != nil || !regexp.MustCompile(want).Match(out) {
		t.Errorf("%v\n%s\nwant a match of %s", err, out, want)
	}
}

// A frame that is cut short, and one that is too long, are errors, whichever
// way it is read.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		want       error
	}{
		{"nothing", "", nil},
		{"a whole one", "\x01\x00\x00\x00x", nil},
		{"half a length", "\x01\x00", io.ErrUnexpectedEOF},
		{"a length alone", "\x01\x00\x00\x00", io.ErrUnexpectedEOF},
		{"half a frame", "\x05\x00\x00\x00xy", io.ErrUnexpectedEOF},
		{"too long", "\x00\x00\x00\x80", errTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, place := range []bool{false, true} {
				a, b := exampletest.Pair(t, 4096)
				a.Write([]byte(tt.sent))
				a.Close()
				var err error
				if place {
					err = receiveAll(b, func([]byte) error { return nil })
				} else {
					p := newCopier(b, 100)
					for err == nil {
						_, err = p.receive()
					}
					if err == io.EOF {
						err = nil
					}
				}
				if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
					t.Errorf("in place %v: %v, want %v", place, err, tt.want)
				}
			}
		})
	}
}

// Frames longer than a batch, and batches that do not come out even, arrive as
// they were sent.
func TestLengths(t *testing.T) {
	a, b := exampletest.Pair(t, 4096)
	lengths := []int{0, 1, 2000, 2044, 7, 0, 1024, 2044, 3}
	sent := make(chan error, 1)
	go func() {
		p := &placer{c: a}
		for i, n := range lengths {
			if err := p.send(n, func(b []byte) {
				for j := range b {
					b[j] = byte(i)
				}
			}); err != nil {
				sent <- err
				return
			}
		}
		err := p.flush()
		a.Close()
		sent <- err
	}()
	i := 0
	err := receiveAll(b, func(b []byte) error {
		if len(b) != lengths[i] {
			t.Errorf("frame %d: %d bytes, want %d", i, len(b), lengths[i])
		}
		for _, x := range b {
			if x != byte(i) {
				t.Fatalf("frame %d holds %d", i, x)
			}
		}
		i++
		return nil
	})
	if err != nil || i != len(lengths) || <-sent != nil {
		t.Errorf("%d frames, %v", i, err)
	}
}
