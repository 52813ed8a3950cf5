package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/iii-go/iii"
)

// visit connects the tenants to the guarded port and tries permitted and forbidden operations.
type visit struct {
	keeper              *iii.Client
	guardedURL, httpURL string
	out                 io.Writer
}

func (v visit) run(ctx context.Context) (err error) {
	stranger, err := v.newTenant("stranger", "token-of-mine")
	if err != nil {
		return err
	}
	defer stranger.Close()
	var refusal *iii.AuthError
	switch err := stranger.Connect(ctx); {
	case err == nil:
		return fmt.Errorf("%s lets a stranger in: it does not ask gatekeeper::auth", v.guardedURL)
	case !errors.As(err, &refusal):
		return fmt.Errorf("%w\nThe engine needs a guarded port: go doc ./examples/gatekeeper shows its configuration", err)
	}
	fmt.Fprintf(v.out, "stranger  is refused: %s\n", refusal.Message)

	acme, err := v.newTenant("acme", "token-of-acme")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, acme)) }()
	globex, err := v.newTenant("globex", "token-of-globex")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, globex)) }()
	if err := errors.Join(acme.Connect(ctx), globex.Connect(ctx)); err != nil {
		return err
	}
	if err := errors.Join(v.try(ctx, acme, "globex"), v.try(ctx, globex, "acme")); err != nil {
		return err
	}

	// Workers on the open port see all functions, under the ids that the gatekeeper assigned.
	f, err := v.keeper.FunctionInfo(ctx, "acme::hello")
	if err != nil {
		return err
	}
	fmt.Fprintf(v.out, "keeper    sees %s of %s\n", f.FunctionID, f.Metadata)
	if _, err := v.keeper.FunctionInfo(ctx, "acme::internal::audit"); err == nil {
		return errors.New("a tenant has a function that the gatekeeper refuses")
	}
	fmt.Fprintln(v.out, "keeper    sees no acme::internal::audit")
	return nil
}

// newTenant returns a tenant's worker, which registers functions whose ids lack the tenant's
// prefix, a route within the tenant's path, and a route outside that path.
func (v visit) newTenant(name, token string) (*iii.Client, error) {
	client, err := iii.New(v.guardedURL, iii.WithName(name), iii.WithHeader(http.Header{"Authorization": {"Bearer " + token}}))
	if err != nil {
		return nil, err
	}
	hello := func(context.Context, any) (string, error) { return "hello from " + name, nil }
	if _, err := iii.Handle(client, "hello", hello); err != nil {
		return nil, err
	}
	if _, err := iii.Handle(client, "internal::audit", hello); err != nil {
		return nil, err
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s", name) })
	for _, path := range []string{"/" + name + "/hello", "/hello"} {
		if _, err := client.MountHTTP(http.MethodGet, path, page); err != nil {
			return nil, err
		}
	}
	return client, nil
}

// try makes permitted and forbidden calls as a tenant.
func (v visit) try(ctx context.Context, tenant *iii.Client, other string) error {
	name := tenant.Name()
	for _, test := range []struct {
		id        string
		forbidden bool
	}{
		{id: "shared::tea-price"},
		{id: name + "::hello"},
		{id: other + "::hello", forbidden: true},
		{id: "state::list_groups", forbidden: true},
	} {
		result, err := iii.Call[any](ctx, tenant, test.id, nil)
		switch {
		case test.forbidden && errors.Is(err, iii.ErrForbidden):
			fmt.Fprintf(v.out, "%-9s may not call %s\n", name, test.id)
		case test.forbidden:
			return fmt.Errorf("%s calls %s: %v, %v", name, test.id, result, err)
		case err != nil:
			return err
		default:
			fmt.Fprintf(v.out, "%-9s calls %s: %v\n", name, test.id, result)
		}
	}
	return v.get(ctx, name)
}

// get requests the tenant's route. The engine's HTTP server may not serve a new route until
// shortly after Connect has returned, so get retries until the request succeeds.
func (v visit) get(ctx context.Context, name string) error {
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.httpURL+"/"+name+"/hello", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK {
			fmt.Fprintf(v.out, "%-9s serves GET %s: %s\n", name, req.URL.Path, body)
			return v.refused(ctx, name)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("GET %s: %s: %w", req.URL.Path, resp.Status, context.Cause(ctx))
		}
	}
}

// refused checks that the route rejected by the gatekeeper is not served.
func (v visit) refused(ctx context.Context, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.httpURL+"/hello", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("GET /hello: %s", resp.Status)
	}
	fmt.Fprintf(v.out, "%-9s may not serve GET /hello\n", name)
	return nil
}
