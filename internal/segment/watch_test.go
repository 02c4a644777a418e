//go:build linux

package segment

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWatchWithout has a Watch without inotify: it waits, shorter.
func TestWatchWithout(t *testing.T) {
	for _, err := range []error{unix.EMFILE, unix.ENOSYS} {
		inotifyInit = func(int) (int, error) { return -1, err }
		defer func() { inotifyInit = unix.InotifyInit1 }()
		w, err := NewWatch(t.TempDir(), "feed")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.Aim()
		took := func(ctx context.Context, limit time.Duration) time.Duration {
			start := time.Now()
			w.Wait(ctx, limit)
			return time.Since(start)
		}
		if d := took(t.Context(), time.Hour); d < WatchWithout || d > 20*WatchWithout {
			t.Errorf("waited %v, want %v", d, WatchWithout)
		}
		if d := took(t.Context(), time.Millisecond); d < time.Millisecond || d >= WatchWithout {
			t.Errorf("waited %v, want a millisecond", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if d := took(ctx, time.Hour); d >= WatchWithout {
			t.Errorf("waited %v after the context's end", d)
		}
	}
}

// TestWatch looks at what ends a Wait and what does not.
func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for _, tt := range []struct {
		name string
		make bool // the directory exists before
		do   func() error
		ends bool
	}{
		{"nothing", true, func() error { return nil }, false},
		{"segment", true, func() error { return os.WriteFile(filepath.Join(dir, "shmconn.feed"), nil, 0o600) }, true},
		{"socket", true, func() error { return os.WriteFile(filepath.Join(dir, "shmconn.feed@sock"), nil, 0o600) }, true},
		{"another name", true, func() error { return os.WriteFile(filepath.Join(dir, "shmconn.feed2"), nil, 0o600) }, false},
		{"connection", true, func() error {
			return os.WriteFile(filepath.Join(dir, "shmconn.feed@00112233445566778899aabbccddeeff"), nil, 0o600)
		}, false},
		{"directory", false, func() error { return os.MkdirAll(dir, 0o700) }, true},
		{"directory above", false, func() error { return os.Mkdir(filepath.Dir(dir), 0o700) }, true},
		{"another directory", false, func() error { return os.Mkdir(filepath.Dir(dir)+"x", 0o700) }, false},
		{"directory removed", true, func() error { return os.Remove(dir) }, true},
		{"directory above moved", true, func() error { return os.Rename(filepath.Dir(dir), filepath.Dir(dir)+"y") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			top := filepath.Dir(filepath.Dir(dir))
			os.RemoveAll(top)
			os.Mkdir(top, 0o700)
			if tt.make {
				os.MkdirAll(dir, 0o700)
			}
			w, err := NewWatch(dir, "feed")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if w.f == nil {
				t.Fatal("no inotify instance: fs.inotify.max_user_instances?")
			}
			w.Aim()
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			const limit = 200 * time.Millisecond
			start := time.Now()
			w.Wait(t.Context(), limit)
			if ended := time.Since(start) < limit; ended != tt.ends {
				t.Errorf("the change ended the Wait: %v, want %v", ended, tt.ends)
			}
		})
	}
}
