package iiitest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// reply is a response of the http triggers, complete.
type reply struct {
	status int
	header webHeader
	body   []byte
}

var (
	notFound        = jsonReply(http.StatusNotFound, `{"error":{"code":"NOT_FOUND","message":"Not Found"}}`)
	conditionNotMet = jsonReply(http.StatusUnprocessableEntity,
		`{"error":{"code":"CONDITION_NOT_MET","message":"Request condition not met"},"skipped":true}`)
	timedOut = jsonReply(http.StatusGatewayTimeout, `{"error":{"code":"MIDDLEWARE_TIMEOUT","message":"Middleware timed out"}}`)
)

func jsonReply(status int, body string) reply {
	return reply{status: status, header: webHeader{{"content-type", []string{"application/json"}}}, body: []byte(body)}
}

func (r reply) send(w *webExchange) { w.respond(r.status, cors(r.header), r.body) }

// failure is the reply to a request whose function failed.
func failure(err *wireError) reply {
	return jsonReply(http.StatusInternalServerError, string(mustEncode(map[string]any{
		"error": map[string]string{"code": err.Code, "error_id": hexID(6), "message": err.Message},
	})))
}

// replyOf makes a reply of what a function returned: the fields status_code,
// headers and body of an object. Anything else is 200 with an empty object.
func replyOf(result json.RawMessage) reply {
	members := membersOf(result)
	header, typed := replyHeader(members["headers"])
	r := reply{status: statusOf(members["status_code"]), header: header, body: members["body"]}
	switch {
	case r.body == nil:
		r.body = []byte("{}")
	case typed && kindOf(r.body) == '"':
		r.body = []byte(unquote(r.body))
	case typed && isNull(r.body):
		r.body = nil
	}
	if !typed {
		r.header.add("content-type", "application/json")
	}
	return r
}

// middlewareReply makes a reply of what a middleware function answered: headers
// as a map only, the body always as JSON.
func middlewareReply(response json.RawMessage) reply {
	members := membersOf(response)
	r := reply{status: statusOf(members["status_code"]), body: members["body"]}
	if r.body == nil {
		r.body = []byte("null")
	}
	if headers := members["headers"]; kindOf(headers) == '{' {
		r.header, _ = replyHeader(headers)
	}
	if r.header.find("content-type") == nil {
		r.header.add("content-type", "application/json")
	}
	return r
}

// statusOf is a status code, or 200 for what is none.
func statusOf(raw json.RawMessage) int {
	if status, err := strconv.ParseUint(string(raw), 10, 16); err == nil && status >= 100 && status <= 999 {
		return int(status)
	}
	return http.StatusOK
}

// replyHeader makes a header of what a function replied: a map of values, or a list of
// "Name: value" lines. Both may repeat a name, a map in other letters. What cannot be a
// header is skipped, but a content type counts as given even then.
func replyHeader(raw json.RawMessage) (header webHeader, typed bool) {
	field := func(name, value string) {
		typed = typed || strings.EqualFold(name, "content-type")
		header.addValid(name, value)
	}
	switch kindOf(raw) {
	case '{':
		members := membersOf(raw)
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if value := members[name]; kindOf(value) == '"' {
				field(name, unquote(value))
			}
		}
	case '[':
		for _, line := range itemsOf(raw) {
			if name, value, found := strings.Cut(stringOf(line), ":"); found {
				field(strings.TrimSpace(name), strings.TrimSpace(value))
			}
		}
	}
	return header, typed
}

// addValid adds a value to those of its name, if both can stand in a header.
func (h *webHeader) addValid(name, value string) {
	if name = strings.ToLower(name); validHeader(name, value) {
		h.add(name, value)
	}
}

// validHeader reports whether a name is a token and a value has no control
// characters (RFC 9110, 5.1 and 5.5).
func validHeader(name, value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return isToken(name)
}

// isToken reports whether s is a token (RFC 9110, 5.6.2).
func isToken(s string) bool {
	const extra = "!#$%&'*+-.^_`|~"
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return s != ""
}
