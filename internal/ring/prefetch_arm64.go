package ring

const hasPrefetchWrite = true
