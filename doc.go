package shmconn
