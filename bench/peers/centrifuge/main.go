// Peer: the centrifuge library with its Redis broker and its Redis presence manager.
//
// Technique: shared state in Redis. Every node writes its own connections into one hash per
// room and renews them before they expire. A reader makes one request to Redis and none to other nodes.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
)

const shutdownTimeout = 5 * time.Second

type row struct {
	IDSocket string `json:"id_socket"`
	IDUser   string `json:"id_user"`
}

type roomKey struct{}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	node, err := newNode(os.Getenv("REDIS_URL"))
	if err != nil {
		return err
	}
	if err := node.Run(); err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", identified(
		centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{})))
	mux.HandleFunc("GET /{room}/users", users(node))

	port := os.Getenv("PORT")
	if port == "" {
		port = "0"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(listener, mux) }()
	fmt.Printf("listening %d\n", listener.Addr().(*net.TCPAddr).Port)

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// Closes the connections, which removes their presence from Redis.
	deadline, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	return node.Shutdown(deadline)
}

// newNode returns a node with its broker and presence in one Redis; it does not run yet.
func newNode(redisURL string) (*centrifuge.Node, error) {
	node, err := centrifuge.New(centrifuge.Config{
		LogLevel: centrifuge.LogLevelError,
		LogHandler: func(entry centrifuge.LogEntry) {
			log.Println(entry.Message, entry.Fields)
		},
	})
	if err != nil {
		return nil, err
	}
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: redisURL})
	if err != nil {
		return nil, err
	}
	shards := []*centrifuge.RedisShard{shard}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: shards})
	if err != nil {
		return nil, err
	}
	node.SetBroker(broker)
	presence, err := centrifuge.NewRedisPresenceManager(node, centrifuge.RedisPresenceManagerConfig{Shards: shards})
	if err != nil {
		return nil, err
	}
	node.SetPresenceManager(presence)
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		room := ctx.Value(roomKey{}).(string)
		return centrifuge.ConnectReply{
			Subscriptions: map[string]centrifuge.SubscribeOptions{room: {EmitPresence: true}},
		}, nil
	})
	return node, nil
}

// identified copies the user and the room from the connection URL into the context.
func identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		ctx := centrifuge.SetCredentials(r.Context(), &centrifuge.Credentials{UserID: query.Get("id_user")})
		ctx = context.WithValue(ctx, roomKey{}, query.Get("room"))
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// users answers with the presence of a room in the whole cluster, or with 503 if Redis does not answer.
func users(node *centrifuge.Node) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := node.Presence(r.PathValue("room"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		rows := make([]row, 0, len(result.Presence))
		for _, client := range result.Presence {
			rows = append(rows, row{IDSocket: client.ClientID, IDUser: client.UserID})
		}
		w.Header().Set("Content-Type", "application/json")
		// A failure here means that the caller has disconnected.
		_ = json.NewEncoder(w).Encode(rows)
	}
}
