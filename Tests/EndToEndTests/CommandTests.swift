// A claim about a program's memory is worth what its measure is worth. These tests run programs of known size, and
// hold the measure to them.

import Foundation
import TestKit
import Testing

@Suite("A command's outcome", .enabled(if: Tools.canMeasure, "\(Tools.measureReason)"))
struct CommandTests {
    private func measured(_ arguments: String..., deadline: Double = 60) throws -> Outcome {
        var command = Command(arguments, deadline: deadline)
        command.measuresMemory = true
        return try command.run()
    }

    @Test("a small command of a large process is small")
    func small() throws {
        let ours = 320 << 20
        let memory = UnsafeMutableRawPointer.allocate(byteCount: ours, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 1, ours)
        let outcome = try measured("true")
        #expect(outcome.exit == 0)
        let peak = try #require(outcome.peakBytes)
        #expect(peak > 0 && peak < 32 << 20, "\(outcome)")
    }

    @Test("a large command is large, however short it lives")
    func large() throws {
        // tail keeps what it will print.
        let outcome = try measured("sh", "-c", "head -c 50M /dev/zero | tail -c 50M >/dev/null")
        #expect(outcome.exit == 0)
        let peak = try #require(outcome.peakBytes)
        #expect(peak >= 50 << 20 && peak < 100 << 20, "\(outcome)")
    }

    @Test("a signal is told from an exit code, measured or not", arguments: [false, true])
    func signal(measures: Bool) throws {
        for (script, signal, exit) in [("kill -9 $$", 9, nil), ("exit 137", nil, 137)] as [(String, Int32?, Int32?)] {
            var command = Command(["sh", "-c", script])
            command.measuresMemory = measures
            let outcome = try command.run()
            #expect(outcome.signal == signal && outcome.exit == exit, "\(outcome)")
        }
    }

    @Test("who outlives its deadline is killed, measured or not", arguments: [false, true])
    func deadline(measures: Bool) throws {
        var command = Command(["sleep", "1000"], deadline: 0.2)
        command.measuresMemory = measures
        let outcome = try command.run()
        #expect(outcome.timedOut && outcome.signal == SIGKILL && outcome.seconds < 500, "\(outcome)")
    }
}
