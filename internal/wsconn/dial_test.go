package wsconn

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/memnet"
)

// Some responses from proxies make the WebSocket library panic. Dialing must fail with an
// error instead, which must not contain the proxy's password.
func TestBadProxyResponsesAreErrors(t *testing.T) {
	const password = "correct-horse"
	for _, answer := range []string{"HTTP/1.1 407\r\n\r\n", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "junk", "HTTP/1.1 200 OK\r\n\r\njunk"} {
		t.Run(answer, func(t *testing.T) {
			d := websocket.Dialer{
				Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test", User: url.UserPassword("user", password)}),
				NetDialContext: func(context.Context, string, string) (net.Conn, error) {
					near, far := memnet.Pipe(memnet.Capacity)
					_, err := far.Write([]byte(answer))
					_ = far.CloseWrite() // continues to accept data
					return near, err
				},
			}
			conn, _, err := upgrade(t.Context(), &d, "ws://engine.test", nil)
			if err == nil {
				_ = conn.Close()
				t.Fatal("dialed")
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}
