// What a driver writes into rings between two messages. Mostly what a driver would, at times what none should.
import Glibc

/// What the fuzzer believes of one ring.
struct RingBelief {
    var size: Int = 8
    var avail: UInt16 = 0
    var wrap = true
}

extension Conversation {
    /// A chain of one to four descriptors, and a kick.
    mutating func publish(_ choices: inout Choices, sound: Bool) {
        let ring = choices.byte() & 3
        let place = Guest.dataAt + (choices.byte() & 15) * 0x1000
        let type = choices.of([UInt32(0), 1, 4, 8, 11, 13, 0x8000_0001, 99])
        guest.store(type, at: place)
        guest.store(UInt64(choices.byte()), at: place + 8)
        guest.store(UInt64(choices.byte()), at: place + 16)
        guest.store(UInt64(choices.byte()) | UInt64(choices.byte() & 3) << 32, at: place + 24)
        let base = Guest.guestAddress + UInt64(place)
        let isRead = type == 0 || type == 8
        let length = UInt32(type == 11 || type == 13 ? 16 : 512 * (1 + choices.byte() & 3))
        var list: [(address: UInt64, length: UInt32, flags: UInt16)] = [
            (base, 16, 1), (base + 16, length, isRead ? 3 : 1), (base + 0xf00, 1, 2),
        ]
        if type == 4 { list.remove(at: 1) }
        if !sound {
            for _ in 0...choices.byte() & 3 {
                let i = choices.byte() % list.count
                switch choices.byte() & 3 {
                case 0: list[i].address = choices.number()
                case 1: list[i].length = UInt32(truncatingIfNeeded: choices.number())
                case 2: list[i].flags = UInt16(choices.byte() & 7)
                default: list.append((Guest.guestAddress &+ choices.number(), UInt32(choices.byte()), 2))
                }
            }
        }
        if rings[ring].size < list.count { rings[ring].size = 8 }
        if isPacked { publishPacked(ring, list) } else { publishSplit(ring, list, &choices, sound: sound) }
        kick(ring)
    }

    private mutating func publishSplit(
        _ ring: Int, _ list: [(address: UInt64, length: UInt32, flags: UInt16)], _ choices: inout Choices, sound: Bool
    ) {
        let size = rings[ring].size
        let first = Int(rings[ring].avail) * 4 % size
        for (i, one) in list.enumerated() {
            let at = Guest.descriptorsAt(ring) + (first + i) % size * 16
            guest.store(one.address, at: at)
            guest.store(one.length, at: at + 8)
            guest.store(one.flags, at: at + 12)
            guest.store(UInt16((first + i + 1) % size), at: at + 14)
        }
        let odd = sound ? 0 : choices.byte()
        let head = odd > 250 ? UInt16(choices.byte()) << 4 : UInt16(first)
        guest.store(head, at: Guest.driverAt(ring) + 4 + 2 * (Int(rings[ring].avail) % size))
        rings[ring].avail &+= odd > 240 ? UInt16(odd) : 1
        guest.store(rings[ring].avail, at: Guest.driverAt(ring) + 2)
    }

    private mutating func publishPacked(_ ring: Int, _ list: [(address: UInt64, length: UInt32, flags: UInt16)]) {
        for one in list {
            let at = Guest.descriptorsAt(ring) + Int(rings[ring].avail) * 16
            guest.store(one.address, at: at)
            guest.store(one.length, at: at + 8)
            guest.store(UInt16(ring), at: at + 12)
            guest.store(one.flags | (rings[ring].wrap ? 0x80 : 0x8000), at: at + 14)
            rings[ring].avail += 1
            if Int(rings[ring].avail) >= rings[ring].size {
                rings[ring].avail = 0
                rings[ring].wrap.toggle()
            }
        }
    }

    func kick(_ ring: Int) {
        var one: UInt64 = 1
        _ = write(guest.events[ring & 1], &one, 8)
    }
}
