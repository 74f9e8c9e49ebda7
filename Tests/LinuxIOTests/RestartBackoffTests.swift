// A server that dies again and again is started again later each time, and one that served for a while at once.
import LinuxIO
import Testing

@Suite struct RestartBackoffTests {
    @Test func quickDeathsWaitLonger() {
        var backoff = RestartBackoff()
        var now: Int64 = 1_000_000
        var pauses: [Int64] = []
        for _ in 0..<10 {
            backoff.start(at: now)
            now += 10
            pauses.append(backoff.death(at: now))
            now += pauses.last ?? 0
        }
        #expect(pauses == [0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000])
    }

    @Test func aLongLifeForgetsTheQuickDeaths() {
        var backoff = RestartBackoff()
        for _ in 0..<5 {
            backoff.start(at: 0)
            _ = backoff.death(at: 1)
        }
        backoff.start(at: 10_000)
        #expect(backoff.death(at: 10_000 + RestartBackoff.longLife + 1) == 0)
        backoff.start(at: 20_000)
        #expect(backoff.death(at: 20_001) == 0)
    }
}
