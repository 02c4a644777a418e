package segment

// DefaultDir is where names without a slash live, unless $SHMCONN_DIR says
// otherwise.
const DefaultDir = "/dev/shm"
