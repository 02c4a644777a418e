//go:build !linux

package wait

func quota() float64 { return 1 << 20 }

func Yield() {}
