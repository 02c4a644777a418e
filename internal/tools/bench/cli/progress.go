package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A bar shows on a terminal how far the bench is. Elsewhere it does nothing.
type bar struct {
	w  io.Writer // nil: no terminal
	pb *progressbar.ProgressBar
}

// width returns how many columns the terminal w has, 0 if w is none.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

func newBar(w io.Writer) *bar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return new(bar)
	}
	return &bar{w: w}
}

func (b *bar) start(slices int) {
	if b.w == nil {
		return
	}
	b.pb = progressbar.NewOptions(slices,
		progressbar.OptionSetWriter(b.w),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionClearOnFinish(),
	)
}

// step is called between slices. The bar is drawn then and at no other time: it
// must not take a processor away from what is being measured.
func (b *bar) step(workload, net string, n int) {
	if b.pb == nil {
		return
	}
	b.pb.Describe(fmt.Sprintf("%-20s %-16s", workload, net))
	b.pb.Add(n)
}

func (b *bar) clear() {
	if b.pb != nil {
		b.pb.Clear()
	}
}

func (b *bar) finish() {
	if b.pb != nil {
		b.pb.Finish()
	}
}
