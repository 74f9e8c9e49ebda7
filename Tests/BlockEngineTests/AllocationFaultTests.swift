// Each read, write and sync that the engine hands to the ring fails once, in turn, or does only a part; and
// so does each call of the helper that writes tables. After each the image has neither errors nor leaks.
import BlockEngine
import DiskTypes
import FailCalls
import Foundation
import Glibc
import ImageChain
import TestKit
import Testing

@Suite(
    "A transfer of the ring that fails while clusters are allocated", .serialized,
    .enabled(if: hasQemuImg, "needs qemu-img"))
struct AllocationFaultTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let make: String
        var testDescription: String { name }
    }
    /// Something below each cluster, so that old bytes must be read.
    static let cases: [Case] = [
        ("backing", "qemu-img create -f qcow2 -b a.raw -F raw start.img"),
        ("512, backing", "qemu-img create -f qcow2 -o cluster_size=512 -b a.raw -F raw start.img"),
        ("extended, backing", "qemu-img create -f qcow2 -o extended_l2=on -b a.raw -F raw start.img"),
        ("compressed", "qemu-img convert -c -f raw -O qcow2 -o cluster_size=16k a.raw start.img"),
        (
            "snapshot",
            "qemu-img convert -f raw -O qcow2 -o cluster_size=4k a.raw start.img && qemu-img snapshot -c s start.img"
        ),
    ].map { Case(name: $0.0, make: $0.1) }

    /// What a whole run covered; nothing else is worth a word.
    static func tell(_ what: String) {
        if isWhole { FileHandle.standardError.write(Data("\(what)\n".utf8)) }
    }

    /// QBLK_EVERY_FAULT: each transfer of a run, which takes minutes in a release build.
    static let isWhole = ProcessInfo.processInfo.environment["QBLK_EVERY_FAULT"] != nil

    @Test(arguments: cases, RingFault.allCases) func costsOnlyTheRequestsThatMetIt(item: Case, fault: RingFault) throws
    {
        let images = try Images()
        let start = try images.disk("a.raw", size: FaultRun.size)
        try images.run(item.make)
        let seed = InteropTests.seed
        var failing = 1
        var runs = 0
        while true {
            let run = FaultRun(images, start, direct: failing % 2 == 0, seed: seed)
            let trouble = try run.run(failing: failing, fault)
            try #require(trouble == nil, "seed \(seed), transfer \(failing) of \(run.transfers)")
            // What a lost sync leaves unwritten are leaks at most.
            try images.run("qemu-img check a.img || { e=$?; [ $e = 3 ] && [ -n \"\(run.mayLeak ? "1" : "")\" ]; }")
            let truth = try images.truth("a.img")
            let wrong = run.mayLeak ? nil : run.judge((0, truth, nil))
            try #require(wrong == nil, "QEMU reads, seed \(seed), transfer \(failing)")
            if failing > run.transfers {
                Self.tell("\(item.name), \(fault): \(runs) runs of at most \(run.transfers) transfers \(run.kinds)")
                return
            }
            runs += 1
            // The first sixteen each, then ever fewer; past the page cache and through it in turn.
            failing += failing > 16 && !Self.isWhole ? 1 + (failing - 16) / 4 * 2 : 1
        }
    }

    @Test(
        "calls of the helper", .enabled(if: qblk_fails_calls() != 0, "needs a build without sanitizer"),
        arguments: cases, RingFault.allCases)
    func aFailedCallIsToldAndNothingElseIsLost(item: Case, fault: RingFault) throws {
        let images = try Images()
        let start = try images.disk("a.raw", size: FaultRun.size)
        try images.run(item.make)
        let seed = InteropTests.seed
        var failing = 1
        var runs = 0
        while true {
            let run = FaultRun(images, start, direct: failing % 2 == 0, seed: seed)
            let outcome = try run.run(failingCall: failing, fault)
            let place = "seed \(seed), call \(failing) of \(outcome.calls), kind \(outcome.kind)"
            try #require(outcome.trouble == nil, "\(place)")
            try images.run("qemu-img check a.img || { e=$?; [ $e = 3 ] && [ -n \"\(outcome.mayLeak ? "1" : "")\" ]; }")
            let truth = try images.truth("a.img")
            let wrong = outcome.isLost ? nil : run.judge((0, truth, nil))
            try #require(wrong == nil, "QEMU reads, \(place)")
            if failing > outcome.calls {
                Self.tell("\(item.name), \(fault): \(runs) runs of at most \(outcome.calls) calls of the helper")
                return
            }
            runs += 1
            failing += failing > 16 && !Self.isWhole ? 1 + (failing - 16) / 4 * 2 : 1
        }
    }
}
