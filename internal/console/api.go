package console

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/iii-go/iii/internal/secret"
)

const (
	// maxTraceSpans and maxTraceLogs limit the spans and log records shown for a trace.
	maxTraceSpans = 5000
	maxTraceLogs  = 1000
	// maxListed is the maximum number of entries in a list on the page.
	maxListed = 500
)

func (c *console) serveEngine(w http.ResponseWriter, _ *http.Request) { answer(w, c.source.Engine()) }

func (c *console) serveRegistry(w http.ResponseWriter, _ *http.Request) {
	answer(w, redact(c.source.Registry()))
}

// serveFunction describes a function. The schemas are not redacted: a secret's schema is not
// itself secret.
func (c *console) serveFunction(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	detail, ok := c.source.Function(q.Get("namespace"), q.Get("id"))
	if !ok {
		http.Error(w, "no such function", http.StatusNotFound)
		return
	}
	var schemas struct {
		Request  json.RawMessage `json:"request_schema,omitempty"`
		Response json.RawMessage `json:"response_schema,omitempty"`
	}
	_ = json.Unmarshal(detail, &schemas) // valid: written by the engine
	members, _ := redact(detail).(map[string]any)
	if members == nil {
		members = map[string]any{}
	}
	if schemas.Request != nil {
		members["request_schema"] = schemas.Request
	}
	if schemas.Response != nil {
		members["response_schema"] = schemas.Response
	}
	answer(w, members)
}

func (c *console) serveActivity(w http.ResponseWriter, _ *http.Request) {
	answer(w, c.recorder.activityNow())
}

// serveInvocations lists the recorded invocations in the order in which they last changed.
func (c *console) serveInvocations(w http.ResponseWriter, _ *http.Request) {
	list, _ := c.recorder.since(0, 2*maxInvocations)
	answer(w, summaries(list))
}

// InvocationSummary is an entry in the list of invocations.
type InvocationSummary struct {
	Seq       uint64  `json:"seq"`
	Namespace string  `json:"namespace"`
	Function  string  `json:"function"`
	Worker    string  `json:"worker,omitempty"`
	Caller    string  `json:"caller,omitempty"`
	Cause     string  `json:"cause,omitempty"`
	Trigger   string  `json:"trigger,omitempty"`
	Internal  bool    `json:"internal,omitempty"`
	Began     float64 `json:"began"`  // milliseconds since 1970
	Took      float64 `json:"took"`   // milliseconds; 0 while it is running
	Status    string  `json:"status"` // running, ok or error
	Code      string  `json:"code,omitempty"`
	HTTP      int     `json:"http_status,omitempty"` // of the response to an HTTP request
	Message   string  `json:"message,omitempty"`
	TraceID   string  `json:"trace_id,omitempty"`
	Preview   string  `json:"preview,omitempty"`
	Size      int     `json:"size"`
}

func summaries(list []Invocation) []InvocationSummary {
	out := make([]InvocationSummary, len(list))
	for n := range list {
		out[n] = list[n].summary()
	}
	return out
}

func (i *Invocation) summary() InvocationSummary {
	s := InvocationSummary{
		Seq: i.seq, Namespace: i.Namespace, Function: i.Function, Worker: i.Worker, Caller: i.Caller,
		Cause: i.Cause, Trigger: i.Trigger, Internal: i.Internal, Status: "running",
		Began: float64(i.began.UnixMicro()) / 1e3, Code: i.code, HTTP: i.httpStatus, Message: secret.Text(i.message), TraceID: i.TraceID,
		Preview: preview(i.Data), Size: i.size,
	}
	if i.ended {
		s.Took, s.Status = milliseconds(i.took), "ok"
		if i.failed() {
			s.Status = "error"
		}
	}
	return s
}

// serveInvocation returns an invocation with its payloads. For a payload that was too large to
// record, it returns only the size.
func (c *console) serveInvocation(w http.ResponseWriter, r *http.Request) {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	i, ok := c.recorder.one(seq)
	if err != nil || !ok {
		http.Error(w, "no such invocation", http.StatusNotFound)
		return
	}
	answer(w, struct {
		InvocationSummary
		Data       any  `json:"data"`
		Metadata   any  `json:"metadata"`
		Result     any  `json:"result"`
		ResultSize int  `json:"result_size"`
		DataKept   bool `json:"data_kept"`
		ResultKept bool `json:"result_kept"`
	}{
		i.summary(), payload(i.Data), payload(i.Metadata), payload(i.result), i.resultLen,
		i.size == len(i.Data), i.resultLen == len(i.result),
	})
}

func (c *console) serveTraces(w http.ResponseWriter, _ *http.Request) {
	answer(w, tracesOf(c.source.Spans(maxSpans)))
}

func (c *console) serveTrace(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	spans := c.source.Trace(id)
	if len(spans) == 0 {
		http.Error(w, "no such trace", http.StatusNotFound)
		return
	}
	left := max(0, len(spans)-maxTraceSpans)
	answer(w, struct {
		Spans []TraceSpan `json:"spans"`
		Left  int         `json:"left"` // spans omitted because of the limit
		Logs  any         `json:"logs"`
	}{traceSpans(redactSpans(spans[:len(spans)-left])), left, redact(c.source.Logs(id, maxTraceLogs))})
}

func (c *console) serveLogs(w http.ResponseWriter, _ *http.Request) {
	answer(w, redact(c.source.Logs("", maxListed)))
}

func (c *console) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	answer(w, struct {
		From  int64  `json:"from"` // milliseconds since 1970
		To    int64  `json:"to"`
		Plots []Plot `json:"plots"`
	}{now.Add(-metricWindow).UnixMilli(), now.UnixMilli(), plots(c.source.Metrics(now.Add(-metricWindow), maxExports))})
}

func answer(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // fails only if the client has disconnected
}
