package bench

import "fmt"

// A checker is fed a stream of messages, cut anywhere, and checks that their
// numbers follow each other and that nothing comes after the last.
type checker struct {
	size, head int    // bytes
	last       uint64 // the bit that marks the last message
	off        int    // bytes of the current message seen so far
	part       [8]byte
	seen       uint64 // messages whose head has been checked
	end        bool   // the last message's head was among them
}

func newChecker(size int) *checker {
	return &checker{size: size, head: HeadBytes(size), last: last(size)}
}

// done tells whether the last message has been received as a whole.
func (k *checker) done() bool { return k.end && k.off == 0 }

func (k *checker) check(head uint64) error {
	if k.end {
		return fmt.Errorf("bench: bytes after the last message, number %d", k.seen)
	}
	if head&^k.last != k.seen&(k.last-1) {
		return fmt.Errorf("bench: message %d came as number %d", k.seen&(k.last-1), head&^k.last)
	}
	k.end = head&k.last != 0
	k.seen++
	return nil
}

func (k *checker) feed(b []byte) error {
	for len(b) > 0 {
		// Whole messages, in order, are the usual case, and the only fast one.
		if k.off == 0 && !k.end {
			seen, mask := k.seen, k.last-1
			for len(b) >= k.size && Head(b[:k.size]) == seen&mask {
				seen++
				b = b[k.size:]
			}
			k.seen = seen
		}
		if k.off == 0 && len(b) >= k.size {
			if err := k.check(Head(b[:k.size])); err != nil {
				return err
			}
			b = b[k.size:]
			continue
		}
		if k.off < k.head && len(b) > 0 {
			n := copy(k.part[k.off:k.head], b)
			k.off += n
			b = b[n:]
			if k.off == k.head {
				if err := k.check(Head(k.part[:k.head])); err != nil {
					return err
				}
			}
		}
		n := min(k.size-k.off, len(b))
		if k.off < k.head {
			n = 0
		}
		k.off += n
		b = b[n:]
		if k.off == k.size {
			k.off = 0
		}
	}
	return nil
}
