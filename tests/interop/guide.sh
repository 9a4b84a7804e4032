   # POST to XTSystems webhook registration endpoint
   curl -X POST "http://localhost:20437/v1/webhooks" \
     -H "Authorization: Bearer $XTSYSTEMS_API_KEY" \
     -H "Content-Type: application/json" \
     -d '{
       "name": "Discord Bot Integration",
       "url": "http://your-discord-bot-url:3000/webhooks/xtsystems",
       "events": ["ticket.created", "ticket.updated", "machine.registered", "alert.triggered"],
       "secret": "your_secure_webhook_secret"
     }'

   # Test webhook endpoint
   curl -X POST "http://localhost:20437/v1/webhooks/{webhook_id}/test" \
     -H "Authorization: Bearer $XTSYSTEMS_API_KEY"
