//go:build !unix

package main

func stayAwake() {}

func noTerminal(err error) bool { return false }
