// Package shmtest is what the tests of the library and its campaigns share:
//
//   - Main, which TestMain calls: a directory for the names, second processes
//     by role, and a check that the tests leave no goroutine, descriptor,
//     mapping, process or file.
//   - Shape, a way to make a connection: of the library or a Unix socket, with
//     which ring, polling for how long, which end first.
//   - Helper, a second process: this test binary run again, told what to do
//     line by line.
//   - Class, Outcome and WantErr, which name an error and check how it is
//     wrapped; Pattern, whose bytes depend on their place in the stream.
//   - Eventually and Blocked, which wait without sleeping for a time.
//   - RawPeer, a dialer that speaks FORMAT.md by hand, and can lie.
//   - Rounds, InRounds and Figure, which do one thing often and say how long
//     it took.
//
// Tests import it and the library does not: it imports the library.
package shmtest
