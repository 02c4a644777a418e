//go:build linux && !race

#include "textflag.h"

// func release(p *atomic.Uint32)
TEXT ·release(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	MOVL $0, (AX)
	RET

// func occupy(p *atomic.Uint32)
TEXT ·occupy(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	MOVL $1, (AX)
	RET
