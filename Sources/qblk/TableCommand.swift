// Why this file exists: `qblk table`.
import ArgumentParser
struct TableCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "table", abstract: "Not yet.")
}
