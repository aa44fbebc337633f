// What net/http makes of the answers at these URLs: a line of JSON for each. Started by compare.py.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const patience = 4 * time.Second

type result struct {
	Status     int    `json:"status"`
	RetryAfter string `json:"after"`
	Error      string `json:"error"`
}

func ask(client *http.Client, url string) result {
	answer, err := client.Post(url, "application/json", strings.NewReader("{}"))
	if err != nil {
		return result{Error: err.Error()}
	}
	defer answer.Body.Close()
	seen := result{Status: answer.StatusCode, RetryAfter: answer.Header.Get("Retry-After")}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			seen.Error = err.Error()
		}
	}
	return seen
}

func main() {
	client := &http.Client{
		Timeout:   patience,
		Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	urls := os.Args[1:]
	results := make([]chan result, len(urls))
	turns := make(chan struct{}, 8)
	for i, url := range urls {
		results[i] = make(chan result, 1)
		go func(url string, to chan result) {
			turns <- struct{}{}
			to <- ask(client, url)
			<-turns
		}(url, results[i])
	}
	for _, one := range results {
		line, _ := json.Marshal(<-one)
		fmt.Println(string(line))
	}
}
