package segment

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Prefix starts the names of all files.
const Prefix = "shmconn."

const maxName = 128

// ParseName splits the name that a user gives into the directory and the name
// in it, or returns an error. It touches no file.
func ParseName(name string) (dir, base string, err error) {
	dir = os.Getenv("SHMCONN_DIR")
	if dir == "" {
		dir = DefaultDir
	}
	base = name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i+1], name[i+1:]
	}
	if strings.IndexByte(dir, 0) >= 0 {
		return "", "", errors.New("name has a zero byte")
	}
	if err := checkBase(base); err != nil {
		return "", "", err
	}
	return filepath.Clean(dir), base, nil
}

func checkBase(base string) error {
	switch {
	case base == "":
		return errors.New("name, or its last element, is empty")
	case base[0] == '.':
		return errors.New("name starts with a dot")
	case len(base) > maxName:
		return errors.New("name is longer than 128 bytes")
	}
	for _, r := range base {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r)) {
			return errors.New("name has characters other than letters, digits, '.', '_' and '-'")
		}
	}
	return nil
}

// A Kind is what a file is for.
type Kind uint8

const (
	OtherFile    Kind = iota // not one of ours
	ListenerFile             // a listener segment, or anonymous memory of a connection
	SocketFile
	ConnFile
)

// ParseFile returns, from the name of a file without its directory, what the
// file is for, its listener's name, and its connection's id.
func ParseFile(file string) (kind Kind, base string, id ID) {
	base, ok := strings.CutPrefix(file, Prefix)
	base, suffix, at := strings.Cut(base, "@")
	if !ok || checkBase(base) != nil {
		return OtherFile, "", id
	}
	if !at {
		return ListenerFile, base, id
	}
	if suffix == "sock" {
		return SocketFile, base, id
	}
	if b, err := hex.DecodeString(suffix); err == nil && len(b) == len(id) && strings.ToLower(suffix) == suffix {
		return ConnFile, base, ID(b)
	}
	return OtherFile, "", id
}
