// A client in the style of Propeller's: the task in the environment, logistic regression, one JSON update on stdout.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"
)

type hyperparameters struct {
	Epochs    int     `json:"epochs"`
	BatchSize int     `json:"batch_size"`
	LR        float64 `json:"lr"`
}

type logistic struct {
	W []float64 `json:"w"`
	B float64   `json:"b"`
}

type example struct {
	X []float64 `json:"x"`
	Y float64   `json:"y"`
}

type dataset struct {
	Data []example `json:"data"`
	Size int       `json:"size"`
}

type update struct {
	RoundID      string             `json:"round_id"`
	PropletID    string             `json:"proplet_id"`
	BaseModelURI string             `json:"base_model_uri"`
	NumSamples   int                `json:"num_samples"`
	Metrics      map[string]float64 `json:"metrics"`
	Update       logistic           `json:"update"`
}

//go:wasmexport run
func run() {
	main()
}

func main() {
	var how hyperparameters
	var model logistic
	var examples dataset
	read("HYPERPARAMS", &how)
	read("MODEL_DATA", &model)
	read("DATASET_DATA", &examples)
	fmt.Fprintf(os.Stderr, "%d examples of %d features\n", examples.Size, len(model.W))
	time.Sleep(time.Millisecond)
	for epoch := 0; epoch < how.Epochs; epoch++ {
		for start := 0; start < len(examples.Data); start += how.BatchSize {
			model.step(examples.Data[start:min(start+how.BatchSize, len(examples.Data))], how.LR)
		}
	}
	text, err := json.Marshal(update{
		RoundID:      os.Getenv("ROUND_ID"),
		PropletID:    os.Getenv("PROPLET_ID"),
		BaseModelURI: os.Getenv("MODEL_URI"),
		NumSamples:   len(examples.Data),
		Metrics:      map[string]float64{"loss": model.loss(examples.Data)},
		Update:       model,
	})
	if err != nil {
		fail("the update is no JSON: %v", err)
	}
	fmt.Println(string(text))
}

func read(name string, into any) {
	if err := json.Unmarshal([]byte(os.Getenv(name)), into); err != nil {
		fail("%s: %v", name, err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func (model *logistic) probability(x []float64) float64 {
	margin := model.B
	for i, w := range model.W {
		margin += w * x[i]
	}
	return 1 / (1 + math.Exp(-margin))
}

func (model *logistic) step(batch []example, lr float64) {
	gradient, bias := make([]float64, len(model.W)), 0.0
	for _, each := range batch {
		off := (model.probability(each.X) - each.Y) / float64(len(batch))
		for i, x := range each.X {
			gradient[i] += off * x
		}
		bias += off
	}
	for i, g := range gradient {
		model.W[i] -= lr * g
	}
	model.B -= lr * bias
}

func (model *logistic) loss(examples []example) float64 {
	sum := 0.0
	for _, each := range examples {
		p := model.probability(each.X)
		sum -= each.Y*math.Log(p) + (1-each.Y)*math.Log(1-p)
	}
	return sum / float64(len(examples))
}
