// The dirty log held against every byte of the guest's memory: a copy that is kept by the log alone equals the memory once
// the rings have stopped, whatever was under way. The checker itself is held against faults that are planted.
import DiskTypes
import Foundation
import TestKit
import Testing
import VhostUserFrontend
import Virtqueue
import VirtqueueMock

@Suite("Every byte that the server writes is on a page that it marks")
struct DirtyLogCheckTests {
    private static let seed =
        ProcessInfo.processInfo.environment["QBLK_SEED"].flatMap(UInt64.init) ?? .random(in: 1...9999)

    /// Requests that were published while the ring stood still are done, and memory is copied meanwhile. In every other
    /// round the ring is stopped at once, with requests under way.
    private func run(_ guest: LoggedGuest, round: Int, copies: Bool = true) throws {
        for _ in 0..<30 where !guest.publish() { break }
        guest.replica.copyAll()
        let copying = copies ? CopyingThread(guest.replica) : nil
        try guest.begin()
        if round % 2 == 0 { #expect(guest.waitForAnswers(), "the ring is stuck") }
        try guest.end()
        copying?.join()
        guest.replica.copyMarked()
    }

    @Test("with rings of every kind", arguments: Rings.allCases)
    func everyByte(rings: Rings) throws {
        let guest = try LoggedGuest(rings, seed: Self.seed)
        for round in 0..<40 {
            try run(guest, round: round)
            #expect(guest.replica.differences().isEmpty, "round \(round), seed \(Self.seed)")
            // And what it does not write is not marked: the target would copy pages for nothing, or the wrong ones.
            let others = guest.replica.marked.subtracting(guest.allowed).subtracting(guest.ringPages)
            #expect(others.isEmpty, "pages \(others), round \(round), seed \(Self.seed)")
        }
    }

    @Test("or the checker finds it", arguments: [Rings.splitEvent, .packedEvent], LoggedGuest.Fault.allCases)
    func plantedFault(rings: Rings, fault: LoggedGuest.Fault) throws {
        let guest = try LoggedGuest(rings, fault: fault, seed: Self.seed)
        try run(guest, round: 0, copies: false)
        let found = guest.replica.differences()
        switch fault {
        case .none: #expect(found.isEmpty)
        case .ringNotLogged:
            #expect(!found.isEmpty && found.isSubset(of: guest.ringPages), "\(found)")
            if rings.isPacked { #expect(found.contains(guest.queueDriver.driver.descriptorArea >> 12)) }
            #expect(found.contains(guest.queueDriver.driver.deviceArea >> 12))
        case .nothingLogged:
            #expect(!found.isDisjoint(with: guest.ringPages) && !found.isDisjoint(with: guest.allowed), "\(found)")
        }
    }

    @Test("or the checker finds the one page whose mark is missing", arguments: Rings.both)
    func plantedPage(rings: Rings) throws {
        let guest = try LoggedGuest(rings, seed: Self.seed)
        for round in 0..<10 {
            guest.replica.overlooked = []
            try run(guest, round: 0, copies: false)
            guard round % 2 == 1, let page = guest.replica.marked.randomElement() else { continue }
            guest.replica.overlooked = [page]
            try run(guest, round: 0, copies: false)
            // The server may have written the same bytes again.
            #expect(guest.replica.differences().isSubset(of: [page]), "seed \(Self.seed)")
            let ring =
                rings.isPacked
                ? guest.queueDriver.driver.descriptorArea >> 12 : guest.queueDriver.driver.deviceArea >> 12
            guest.replica.overlooked = [ring]
            try run(guest, round: 0, copies: false)
            #expect(guest.replica.differences() == [ring], "seed \(Self.seed)")
        }
    }
}
