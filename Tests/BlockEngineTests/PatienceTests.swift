// Why this file exists: the wait between two requests decides the latency at depth 1; here is what it must learn.
import Testing

@testable import BlockEngine

@Suite struct PatienceTests {
    /// One wait of a worker: work comes `arrival` ns after the look began; being woken takes `wake` more.
    /// True when the look found it.
    private func wait(_ patience: inout Patience, at now: inout Int64, arrival: Int64, wake: Int64) -> Bool {
        patience.starts(at: now)
        if patience.until(now) >= arrival {
            patience.found()
            now += arrival
            return true
        }
        now += arrival + wake
        patience.slept(until: now)
        return false
    }

    @Test("Work that comes soon is found by looking, however long it takes to wake up")
    func slowWakeups() {
        var patience = Patience(limit: 32_000)
        var now: Int64 = 1
        var found = 0
        for _ in 0..<1000 where wait(&patience, at: &now, arrival: 25_000, wake: 40_000) { found += 1 }
        #expect(found > 990)
    }

    @Test("Work that comes late costs hardly any looking")
    func lateWork() {
        var patience = Patience(limit: 32_000)
        var now: Int64 = 1
        var looked: Int64 = 0
        for _ in 0..<10_000 {
            patience.starts(at: now)
            looked += patience.until(now)
            now += 1_000_000
            patience.slept(until: now)
        }
        #expect(looked < 20 * 32_000)
    }

    @Test("Patience that was lost comes back when work comes soon again")
    func changeOfMind() {
        var patience = Patience(limit: 32_000)
        var now: Int64 = 1
        for _ in 0..<10_000 { _ = wait(&patience, at: &now, arrival: 1_000_000, wake: 40_000) }
        var found = 0
        for _ in 0..<10_000 where wait(&patience, at: &now, arrival: 20_000, wake: 40_000) { found += 1 }
        #expect(found > 8_900)
    }
}

extension Patience {
    /// Nanoseconds of the look that began at `now`.
    fileprivate func until(_ now: Int64) -> Int64 { lookEnd - now }
}
