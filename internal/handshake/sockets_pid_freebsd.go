package handshake

func peerPID(int) int32 { return 0 }
