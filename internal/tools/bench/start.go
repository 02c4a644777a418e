//go:build linux

package bench

import (
	"cmp"
	"errors"
	"os"
	"time"
)

// A Peer is the other end of a connection of which this process has one: what
// benchmarks of go test are made of.
type Peer struct {
	spec   Spec
	client *end
	server *worker
	proc   *process // nil if the peer is a goroutine
	done   chan error
}

// StartPeer starts the server's end of s, in a process or in a goroutine, and
// connects this process to it. If it starts a process, this program needs to
// call [Main].
func StartPeer(s Spec, goroutine bool) (_ *Peer, err error) {
	p := &Peer{spec: s}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.spec.Dir, err = makeDir(); err != nil {
		return nil, err
	}
	if goroutine {
		w, in, out, err := newWorker()
		if err != nil {
			return nil, err
		}
		p.server, p.done = w, make(chan error, 1)
		go func() {
			err := serve(in, out, func() {})
			p.done <- errors.Join(err, in.Close(), out.Close())
		}()
	} else {
		if p.proc, err = (environment{dir: p.spec.Dir}).start(1); err != nil {
			return nil, err
		}
		p.server = p.proc.workers[0]
	}
	a, err := p.server.call(request{Do: "listen", Spec: p.spec}, setupTimeout)
	if err != nil {
		return nil, err
	}
	if p.client, err = dialEnd(p.spec, a.Addr, ""); err != nil {
		return nil, err
	}
	_, err = p.server.call(request{Do: "ready"}, setupTimeout)
	return p, err
}

// makeDir makes the directory for the files of a run, beside those of others.
func makeDir() (string, error) {
	return os.MkdirTemp(cmp.Or(os.Getenv("SHMCONN_DIR"), "/dev/shm"), "shmconn-bench-")
}

// Do does n operations of the spec's loop.
func (p *Peer) Do(n int) error {
	q := quota{N: uint64(n)}
	const timeout = time.Hour // go test has its own
	if _, err := p.server.call(request{Do: "server", Spec: p.spec, Quota: q}, timeout); err != nil {
		return err
	}
	if _, err := loops[p.spec.Loop].client(p.client, q); err != nil {
		return err
	}
	_, err := p.server.hear(timeout)
	return err
}

// Close ends the peer.
func (p *Peer) Close() (err error) {
	if p.client != nil {
		p.client.close()
	}
	switch {
	case p.proc != nil:
		err = p.proc.stop()
	case p.server != nil:
		p.server.tell(request{Do: "quit"})
		_, err = p.server.hear(setupTimeout)
		err = errors.Join(err, <-p.done, p.server.in.Close(), p.server.out.Close())
	}
	if p.spec.Dir != "" {
		err = errors.Join(err, os.RemoveAll(p.spec.Dir))
	}
	return err
}
