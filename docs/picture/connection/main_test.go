package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"testing"
)

// TestDrawn: docs/connection.svg is what this command draws, and is
// well-formed.
func TestDrawn(t *testing.T) {
	var b bytes.Buffer
	if err := draw(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("../../connection.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Error("docs/connection.svg is not what is drawn now: go run ./docs/picture/connection >docs/connection.svg")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

var errFull = errors.New("full")

func TestDrawError(t *testing.T) {
	if err := draw(full{}); !errors.Is(err, errFull) {
		t.Errorf("draw = %v, want %v", err, errFull)
	}
}
