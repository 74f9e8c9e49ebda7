// The wait between two requests decides the latency at depth 1; here is what it must learn.
import Testing

@testable import BlockEngine

@Suite struct AdaptivePollingTests {
    /// One wait of a worker: work comes `arrival` ns after the look began; being woken takes `wake` more.
    /// True when the look found it.
    private func wait(_ polling: inout AdaptivePolling, at now: inout Int64, arrival: Int64, wake: Int64) -> Bool {
        polling.begin(at: now)
        if polling.until(now) >= arrival {
            polling.recordHit()
            now += arrival
            return true
        }
        now += arrival + wake
        polling.recordSleep(until: now)
        return false
    }

    @Test("Work that comes soon is found by looking, however long it takes to wake up")
    func slowWakeups() {
        var polling = AdaptivePolling(limit: 32_000)
        var now: Int64 = 1
        var found = 0
        for _ in 0..<1000 where wait(&polling, at: &now, arrival: 25_000, wake: 40_000) { found += 1 }
        #expect(found > 990)
    }

    @Test("Work that comes late costs hardly any looking")
    func lateWork() {
        var polling = AdaptivePolling(limit: 32_000)
        var now: Int64 = 1
        var looked: Int64 = 0
        for _ in 0..<10_000 {
            polling.begin(at: now)
            looked += polling.until(now)
            now += 1_000_000
            polling.recordSleep(until: now)
        }
        #expect(looked < 20 * 32_000)
    }

    @Test("AdaptivePolling that was lost comes back when work comes soon again")
    func changeOfMind() {
        var polling = AdaptivePolling(limit: 32_000)
        var now: Int64 = 1
        for _ in 0..<10_000 { _ = wait(&polling, at: &now, arrival: 1_000_000, wake: 40_000) }
        var found = 0
        for _ in 0..<10_000 where wait(&polling, at: &now, arrival: 20_000, wake: 40_000) { found += 1 }
        #expect(found > 8_900)
    }
}

extension AdaptivePolling {
    /// Nanoseconds of the look that began at `now`.
    fileprivate func until(_ now: Int64) -> Int64 { pollEnd - now }
}
