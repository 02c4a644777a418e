package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// produce writes the integers from 1 to count and a zero to w, 4 bytes each, in
// little-endian order, with Writes of chunk bytes; the last may be shorter. It
// returns how many Writes that were.
func produce(w io.Writer, count uint32, chunk int) (writes int, err error) {
	buf := make([]byte, chunk)
	used := 0
	for i := uint64(1); i <= uint64(count)+1; i++ {
		value := uint32(i)
		last := i > uint64(count)
		if last {
			value = 0
		}
		binary.LittleEndian.PutUint32(buf[used:], value)
		used += 4
		if used < chunk && !last {
			continue
		}
		if _, err := w.Write(buf[:used]); err != nil {
			return writes, err
		}
		writes++
		used = 0
	}
	return writes, nil
}

// readSize is how many bytes consume asks a Read for.
const readSize = 64 << 10

// consume reads integers from r until the zero, checks that they are 1, 2, 3,
// ... and that nothing comes after the zero, and returns how many there were
// before it. An integer out of sequence is a [*sequenceError].
func consume(r io.Reader) (uint32, error) {
	buf := make([]byte, readSize)
	held := 0 // bytes of an integer whose rest has not come yet
	for want := uint32(1); ; {
		n, err := io.ReadAtLeast(r, buf[held:], 4-held)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return want - 1, fmt.Errorf("no zero at the end, after %d integers: %w", want-1, err)
		}
		b := buf[:held+n]
		for ; len(b) >= 4; b = b[4:] {
			switch got := binary.LittleEndian.Uint32(b); {
			case got == 0:
				return want - 1, checkEnd(r, b[4:])
			case got != want:
				return want - 1, &sequenceError{got: got, want: want}
			}
			want++
		}
		held = copy(buf, b)
	}
}

// checkEnd returns an error unless rest is empty and r is at its end.
func checkEnd(r io.Reader, rest []byte) error {
	if len(rest) > 0 {
		return errors.New("bytes after the zero")
	}
	switch n, err := io.Copy(io.Discard, r); {
	case n > 0:
		return errors.New("bytes after the zero")
	case err != nil:
		return fmt.Errorf("after the zero: %w", err)
	}
	return nil
}

// A sequenceError says which integer was read instead of the right one. As they
// count from 1, the right one is also the position in the stream.
type sequenceError struct {
	got, want uint32
}

func (e *sequenceError) Error() string {
	return fmt.Sprintf("integer at position %d is %d, want %d", e.want, e.got, e.want)
}
