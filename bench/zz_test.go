package main
import ("testing";"time";"fmt";"os";"github.com/asap-protocol/asap-go/internal/load")
func TestZ(t *testing.T){
 self,_ := os.Executable()
 b := &bench{self:self, profile: os.Getenv("ZPROF")}
 dir := t.TempDir()
 c, err := b.startNode(t.Context(), dir); if err!=nil {t.Fatal(err)}
 load.Run(t.Context(), load.Plan{Tasks: 500, Connections: 64, Do: c.do})
 e0,_ := c.process.Effort()
 r,_ := load.Run(t.Context(), load.Plan{Tasks: 1<<22, Duration: 8*time.Second, Connections: 64, Do: c.do})
 e1,_ := c.process.Effort()
 fmt.Println(r.Done, r.DonePerSecond(), float64((e1.CPU-e0.CPU).Microseconds())/float64(r.Done), "us cpu")
 c.end(); c.process.Stop()
}
