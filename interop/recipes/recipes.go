//go:build linux

// Package recipes has what it takes to use well-known clients over shared memory:
// those of docs/recipes.md, each as it is there.
package recipes

import (
	"context"
	"net"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"shmconn"
)

// PgxPool returns a pool of connections to the PostgreSQL server that is at name.
// A port in it is not looked at.
func PgxPool(ctx context.Context, name, user, database string) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig("sslmode=disable") // nobody is in between
	if err != nil {
		return nil, err
	}
	c.ConnConfig.Host, c.ConnConfig.User, c.ConnConfig.Database = name, user, database
	c.ConnConfig.Fallbacks = nil
	c.ConnConfig.DialFunc = new(shmconn.Dialer).DialContext
	c.ConnConfig.LookupFunc = func(_ context.Context, host string) ([]string, error) {
		return []string{host}, nil // a name of ours is no host: do not ask DNS
	}
	return pgxpool.NewWithConfig(ctx, c)
}

// Redis returns a client of the Redis server that is at name.
func Redis(name string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: name,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(shmconn.Dialer).DialContext(ctx, "shm", name)
		},
	})
}

// RegisterMySQL makes user@shm(NAME)/database a data source of the driver "mysql".
// It is called once.
func RegisterMySQL() {
	mysql.RegisterDialContext("shm", func(ctx context.Context, name string) (net.Conn, error) {
		return new(shmconn.Dialer).DialContext(ctx, "shm", name)
	})
}
