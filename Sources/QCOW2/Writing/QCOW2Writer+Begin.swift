// Where new bytes go. Whole clusters get a run of host clusters at once; a part of a cluster gets one cluster, or
// with extended L2 entries just the subclusters it touches.

public import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

extension QCOW2Writer {
    /// Leave to write up to `length` (> 0) bytes at `guest`, which must lie inside the disk. `worker`: its number, if it
    /// has one (see `enter`).
    public func begin(_ guest: GuestOffset, length: UInt64, at worker: Int = 0) -> WriteGrant {
        state.withLock { state in
            if let error = state.status.closedBy { return .failed(error) }
            guard state.status.isPrepared else { return state.prerequisites.require(.preparation) }
            let cluster = guest.bytes >> map.clusterBits
            if let wait = withoutTable(guest, &state) { return wait }
            guard state.changes.hasRoom(1) else { return state.prerequisites.require(.writeBack) }
            let slice = Int(truncatingIfNeeded: guest.bytes >> map.sliceCoverageBits)
            switch map.cache.pin(slice) {
            case nil: return state.prerequisites.require(.writeBack)
            case false?:
                let table = MappingWord(map.l1[Int(guest.bytes >> map.coverageBits)]).offset
                return .needs(map.tableRead(slice, l2Table: table))
            case true?: break
            }
            let grant =
                state.changes.isInFlight(cluster) ? .busy : grant(guest, length, slice: slice, worker, &state)
            guard case .granted(let write) = grant else {
                map.cache.unpin(slice)
                return grant
            }
            state.changes.begin(cluster, count: write.clusters)
            return grant
        }
    }

    /// What a write must wait for that has no L2 table of its own; nil when it has one.
    func withoutTable(_ guest: GuestOffset, _ state: inout State) -> WriteGrant? {
        let index = Int(truncatingIfNeeded: guest.bytes >> map.coverageBits)
        let entry = MappingWord(map.l1[index])
        if entry.isDamaged { return .failed(EIO) }
        if entry.raw == 0 || entry.raw & MappingWord.copied == 0 { return state.prerequisites.require(.table(index)) }
        return nil
    }

    private func grant(
        _ guest: GuestOffset, _ length: UInt64, slice: Int, _ worker: Int, _ state: inout State
    ) -> WriteGrant {
        let inCluster = guest.bytes & (map.clusterSize - 1)
        let word = MappingWord(map.cache.word(slice, map.entryIndex(guest)))
        if word.isDamaged { return .failed(EIO) }
        let isAligned = inCluster == 0 && length >= map.clusterSize
        if map.rules.subclusters {
            let bits = map.cache.word(slice, map.entryIndex(guest) + 1)
            if isOwn(word) { return grantInside(guest, length, word, bits) }
            if isAligned { return grantRun(guest, length, slice, worker, &state) }
            return grantSubclusters(guest, length, word, bits, worker, &state)
        }
        if map.isInPlace(word) { return .inPlace }
        if isAligned, !isOwn(word) { return grantRun(guest, length, slice, worker, &state) }
        return grantCluster(guest, length, word, worker, &state)
    }

    /// The cluster is this image's alone, whether it is read or not.
    func isOwn(_ word: MappingWord) -> Bool {
        !word.isCompressed && word.raw & MappingWord.copied != 0 && (word.offset != 0 || map.rules.external)
    }

    // MARK: kinds of writes

    /// Whole clusters, as many in a row as are free in a row.
    private func grantRun(
        _ guest: GuestOffset, _ length: UInt64, _ slice: Int, _ worker: Int, _ state: inout State
    ) -> WriteGrant {
        let first = guest.bytes >> map.clusterBits
        let inSlice = UInt64(1) << (map.sliceCoverageBits - map.clusterBits)
        let free = state.changes.nextInFlight(from: first) - first
        let most = min(length >> map.clusterBits, inSlice - first & (inSlice - 1), free)
        var count: UInt64 = 1
        while count < most {
            let next = MappingWord(
                map.cache.word(slice, map.entryIndex(GuestOffset((first + count) << map.clusterBits))))
            guard !next.isDamaged, !isOwn(next) else { break }
            count += 1
        }
        return allocate(Int(count), at: guest, worker, &state) { host, count, _ in
            AllocatingWrite(
                guest: guest, length: UInt64(count) << self.map.clusterBits, host: host, fill: .none,
                isNew: !self.map.rules.external, isWhole: true, clusters: UInt64(count))
        }
    }

    /// One cluster, written in part: all of it is valid afterwards.
    private func grantCluster(
        _ guest: GuestOffset, _ length: UInt64, _ word: MappingWord, _ worker: Int, _ state: inout State
    ) -> WriteGrant {
        let start = GuestOffset(guest.bytes & ~(map.clusterSize - 1))
        let isAll = guest.bytes == start.bytes && length >= map.clusterSize
        if isOwn(word) {
            // A zero cluster that kept its place.
            return .granted(
                AllocatingWrite(
                    guest: start, length: map.clusterSize, host: HostOffset(word.offset),
                    fill: isAll ? .none : .zero, isNew: false, isWhole: true, clusters: 1))
        }
        let old: AllocatingWrite.CowFill = isAll ? .none : readsAsZeros(word) ? .zero : .copy
        return allocate(1, at: start, worker, &state) { host, _, isUntouched in
            AllocatingWrite(
                guest: start, length: self.map.clusterSize, host: host,
                fill: old == .zero && isUntouched ? .none : old, isNew: !self.map.rules.external, isWhole: true,
                clusters: 1)
        }
    }

    private func readsAsZeros(_ word: MappingWord) -> Bool {
        if word.isCompressed { return false }
        return word.hasZeroFlag || (word.offset == 0 && !hasBacking)
    }

    /// Subclusters of a cluster that has its place already.
    private func grantInside(
        _ guest: GuestOffset, _ length: UInt64, _ word: MappingWord, _ bits: UInt64
    ) -> WriteGrant {
        let first = Int(guest.bytes >> map.subclusterBits & 31)
        if bits >> UInt64(first) & 1 != 0 { return .inPlace }
        let units = touched(guest, length)
        var last = first
        while last < units.upperBound, bits >> UInt64(last) & 1 == 0 { last += 1 }
        let range = first..<last
        return .granted(
            subclusterWrite(
                guest, length, range, host: word.offset, fill: fill(guest, length, range, bits), isNew: false))
    }

    /// Subclusters of a new cluster. What is compressed or shared comes along as a whole.
    private func grantSubclusters(
        _ guest: GuestOffset, _ length: UInt64, _ word: MappingWord, _ bits: UInt64, _ worker: Int,
        _ state: inout State
    ) -> WriteGrant {
        let start = GuestOffset(guest.bytes & ~(map.clusterSize - 1))
        if word.isCompressed || bits & 0xffff_ffff != 0 { return grantCluster(guest, length, word, worker, &state) }
        let units = touched(guest, length)
        let old = fill(guest, length, units, bits)
        return allocate(1, at: start, worker, &state) { host, _, isUntouched in
            self.subclusterWrite(
                guest, length, units, host: host.bytes, fill: old == .zero && isUntouched ? .none : old,
                isNew: !self.map.rules.external)
        }
    }

    /// The subclusters of the cluster of `guest` that a write touches.
    private func touched(_ guest: GuestOffset, _ length: UInt64) -> Range<Int> {
        let inCluster = guest.bytes & (map.clusterSize - 1)
        let end = min(inCluster + length, map.clusterSize)
        let first = Int(inCluster >> map.subclusterBits)
        return first..<max(first + 1, Int((end + (1 << map.subclusterBits) - 1) >> map.subclusterBits))
    }

    private func fill(_ guest: GuestOffset, _ length: UInt64, _ units: Range<Int>, _ bits: UInt64)
        -> AllocatingWrite.CowFill
    {
        let mask = (UInt64(1) << map.subclusterBits) - 1
        let inCluster = guest.bytes & (map.clusterSize - 1)
        let end = inCluster + length
        let unitsEnd = UInt64(units.upperBound) << map.subclusterBits
        var partial: [Int] = []
        if inCluster & mask != 0 { partial.append(units.lowerBound) }
        if end < unitsEnd { partial.append(units.upperBound - 1) }
        if partial.isEmpty { return .none }
        let zeros = partial.allSatisfy { bits >> UInt64($0 + 32) & 1 != 0 || !hasBacking }
        return zeros ? .zero : .copy
    }

    private func subclusterWrite(
        _ guest: GuestOffset, _ length: UInt64, _ units: Range<Int>, host cluster: UInt64,
        fill: AllocatingWrite.CowFill,
        isNew: Bool
    ) -> AllocatingWrite {
        let start = guest.bytes & ~(map.clusterSize - 1)
        let offset = UInt64(units.lowerBound) << map.subclusterBits
        return AllocatingWrite(
            guest: GuestOffset(start + offset), length: UInt64(units.count) << map.subclusterBits,
            host: HostOffset(cluster + offset), fill: fill, isNew: isNew, isWhole: false, clusters: 1)
    }

    // MARK: host clusters

    /// Host clusters for up to `count` guest clusters at `guest`. In an external data file they have their place.
    private func allocate(
        _ count: Int, at guest: GuestOffset, _ worker: Int, _ state: inout State,
        _ make: (HostOffset, _ count: Int, _ isUntouched: Bool) -> AllocatingWrite
    ) -> WriteGrant {
        if map.rules.external {
            let end = guest.bytes + UInt64(count) << map.clusterBits
            map.ends.grow(data: end)
            return .granted(make(HostOffset(guest.bytes), count, false))
        }
        do throws(RefcountObstacle) {
            guard let found = try state.clusters.allocate(count, for: worker) else {
                growEnds(state)
                return state.prerequisites.require(.room)
            }
            growEnds(state)
            return .granted(
                make(
                    HostOffset(found.clusters.lowerBound << map.clusterBits), found.clusters.count, found.isUntouched))
        } catch {
            return answer(to: error, &state)
        }
    }

    /// Entries may name the clusters up to the last one in use from here on.
    func growEnds(_ state: borrowing State) {
        map.ends.grow(file: state.clusters.endOffset)
        map.ends.grow(data: map.rules.external ? 0 : state.clusters.endOffset)
    }

    /// The answer to a write that gets no cluster now.
    private func answer(to obstacle: RefcountObstacle, _ state: inout State) -> WriteGrant {
        switch obstacle {
        case .block(let b): return state.prerequisites.require(.block(b))
        case .full: return .failed(ENOSPC)
        case .corrupt:
            state.status.closeAsCorrupt()
            state.prerequisites.add(.corruption)
            return .failed(EIO)
        }
    }
}
