//go:build !linux

package main

import "errors"

// removeDead has nothing to remove: there are no listeners but on Linux.
func removeDead(dir, base string, dead, dry bool) (files []string, err error) {
	return nil, errors.ErrUnsupported
}
