// Makes clusters free that have no reference any more. Their space goes back to the file system first: once a cluster
// is free another write may have it.
public import DiskTypes

extension QCOW2Writer {
    /// Makes clusters free whose last reference is gone. No request that began before their mapping changed may be in
    /// flight. `discards`: their space goes back to the file system first.
    public func release(
        _ freed: FreedClusters, storage: some ResizableStorage, discards: Bool
    ) throws(ImageError) {
        if discards { try discardUnreferenced(freed, storage) }
        for next in freed.list {
            while let block = release(next) { try satisfy(.block(block), storage) }
        }
    }

    /// Gives the space of those clusters back that have no other reference. Until they are released no other write can have
    /// them, so no lock is held; neighbours go together, because a file system frees whole blocks of its own only.
    private func discardUnreferenced(_ freed: FreedClusters, _ storage: some ResizableStorage) throws(ImageError) {
        var given: [UInt64: References] = [:]
        for next in freed.list {
            given[next.cluster, default: References()].all += 1
            if next.isTable { given[next.cluster, default: References()].tables += 1 }
        }
        var run: Range<UInt64> = 0..<0
        func discardRun() {
            guard !run.isEmpty else { return }
            storage.discard(
                at: HostOffset(run.lowerBound << map.clusterBits), length: UInt64(run.count) << map.clusterBits)
        }
        for (cluster, references) in given.sorted(by: { $0.key < $1.key }) {
            var answer = are(references, theLastOf: cluster)
            while let block = answer.missing {
                try satisfy(.block(block), storage)
                answer = are(references, theLastOf: cluster)
            }
            guard answer.0 else { continue }
            if run.upperBound == cluster, !run.isEmpty {
                run = run.lowerBound..<cluster + 1
            } else {
                discardRun()
                run = cluster..<cluster + 1
            }
        }
        discardRun()
    }

    /// Gives one reference back; a refcount block that must be read first.
    private func release(_ reference: DroppedReference) -> Int? {
        state.withLock { state in
            guard reference.isTable || !state.clusters.isMetadata(reference.cluster) else { return nil }
            do throws(RefcountObstacle) {
                if try state.clusters.release(reference.cluster) {
                    map.guarded.withLock { _ = $0.tables.remove(reference.cluster) }
                }
                return nil
            } catch { return error.block }
        }
    }

    /// References to one cluster that are given up.
    private struct References {
        var all: UInt64 = 0
        /// Those of them that were to a table of the image.
        var tables: UInt64 = 0
    }

    /// Whether a cluster is free once these references are released; or a refcount block that must be read first.
    private func are(_ references: References, theLastOf cluster: UInt64) -> (Bool, missing: Int?) {
        state.withLock { state in
            // As `release` does it: what an entry of the guest names and is metadata is left alone.
            let leaving = state.clusters.isMetadata(cluster) ? references.tables : references.all
            guard leaving > 0 else { return (false, nil) }
            do throws(RefcountObstacle) { return (try state.clusters.count(of: cluster) == leaving, nil) } catch {
                return (false, error.block)
            }
        }
    }

    /// Makes clusters free again that workers only keep. By the thread that calls `writeBack`.
    public func giveBackReserved(_ storage: some ResizableStorage) throws(ImageError) {
        while true {
            let result: Result<Void, RefcountObstacle> = state.withLock { state in
                Result { () throws(RefcountObstacle) in try state.clusters.releaseReserved() }
            }
            switch result {
            case .success: return
            case .failure(.block(let block)): try satisfy(.block(block), storage)
            case .failure: return
            }
        }
    }
}

extension RefcountObstacle {
    fileprivate var block: Int? { if case .block(let b) = self { b } else { nil } }
}
